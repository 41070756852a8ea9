//! What is in the file: a line that says what happened, then the bytes that came with it.
//!
//! ```text
//! put    DIGEST SIZE TIME\n BYTES     a blob came whole
//! part   UPLOAD SIZE TIME\n BYTES     bytes came for an upload
//! cut    UPLOAD SIZE\n                the upload goes on from here; what came after is forgotten
//! commit UPLOAD DIGEST TIME\n         the parts of the upload are a blob now: nothing is copied
//! drop   UPLOAD\n                     the upload is forgotten
//! delete DIGEST\n                     the blob is forgotten
//! ```

use hyper_sdk::Digest;
use hyper_sdk::store::UploadId;
use std::fmt;

/// The longest line.
pub(crate) const MAX_LINE: usize = 256;

#[derive(Clone, Debug)]
pub(crate) enum Record {
    Put { digest: Digest, size: u64, time: u64 },
    Part { upload: UploadId, size: u64, time: u64 },
    Cut { upload: UploadId, size: u64 },
    Commit { upload: UploadId, digest: Digest, time: u64 },
    Drop { upload: UploadId },
    Delete { digest: Digest },
}

impl Record {
    /// How many bytes follow the line.
    pub(crate) fn size(&self) -> u64 {
        match self {
            Self::Put { size, .. } | Self::Part { size, .. } => *size,
            _ => 0,
        }
    }

    pub(crate) fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let (kind, name) = (words.next()?, words.next()?);
        let mut number = || words.next()?.parse::<u64>().ok();
        let digest = || Digest::parse(name).ok();
        let upload = || UploadId::parse(name).ok();
        Some(match kind {
            "put" => Self::Put { digest: digest()?, size: number()?, time: number()? },
            "part" => Self::Part { upload: upload()?, size: number()?, time: number()? },
            "cut" => Self::Cut { upload: upload()?, size: number()? },
            "commit" => {
                let digest = Digest::parse(words.next()?).ok()?;
                Self::Commit { upload: upload()?, digest, time: words.next()?.parse().ok()? }
            }
            "drop" => Self::Drop { upload: upload()? },
            "delete" => Self::Delete { digest: digest()? },
            _ => return None,
        })
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Put { digest, size, time } => writeln!(f, "put {digest} {size} {time}"),
            Self::Part { upload, size, time } => writeln!(f, "part {upload} {size} {time}"),
            Self::Cut { upload, size } => writeln!(f, "cut {upload} {size}"),
            Self::Commit { upload, digest, time } => writeln!(f, "commit {upload} {digest} {time}"),
            Self::Drop { upload } => writeln!(f, "drop {upload}"),
            Self::Delete { digest } => writeln!(f, "delete {digest}"),
        }
    }
}
