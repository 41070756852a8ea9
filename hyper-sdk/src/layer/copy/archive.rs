//! Unpacks local archives for ADD. Archives are detected by their content and merged into the plan. Only the
//! decompressed bytes are written to the disk, to one unnamed file.
//!
//! # Rules (those of BuildKit)
//! - An archive is a regular file that starts with a tar header, plain or compressed with gzip, bzip2, xz or zstd. Any
//!   other file is copied as it is, whatever its name.
//! - The destination is always a directory. Its own entry in the archive is ignored if the name is `./`, and sets
//!   owner, mode and time if the name is `/`.
//! - Members keep mode, owner and time of the archive; `--chown` overrides the owner, `--chmod` does not apply. Of
//!   their extended attributes `security.capability` is kept.
//! - The owner, mode and time of a hard link's member apply to all names of the file.
//! - Only the low 32 bits of an owner are used, as in the kernel. If they are all set, the owner is root.
//! - Sparse files are unpacked in full.
//! - Times before 1970 and after 2262 become 1970. Bytes after the last compressed stream are ignored.
//! - A member replaces any entry at its path, but a directory is merged with a directory. Links in the parents of a
//!   member are followed with the destination as the root.
//!
//! - A member whose path in the archive matches `--exclude` is left out; a hard link to it becomes a file.
//!
//! Names with `..` are rejected, not clamped: such an archive is hostile or broken.

use super::CopySpec;
use super::conflicts::check_name;
use super::file_digest::CAPABILITY;
use super::metadata::Metadata;
use super::pattern::{ParentMatch, PatternList};
use super::planned_entry::LinkGroup;
use super::planned_entry::{Content, PlannedEntry};
use super::planner::Planner;
use super::source::SourceRoot;
use super::sparse::{SparseRecords, SparseSpool};
use crate::layer::Owner;
use crate::layer::entry::escape;
use crate::layer::reader::file_time;
use crate::layer::{ArchiveFormat, Entry, EntryKind, FileTime, LayerPath};
use crate::{Error, ErrorKind, Result, ResultExt};
use rustix::fs::{Mode, OFlags};
use std::cell::Cell;
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::sync::Arc;
use tar::EntryType;

const BLOCK: usize = 512;
/// The size limit for all headers of one member: names, links, PAX records and sparse maps.
const MAX_HEADERS: u64 = 4 << 20;
/// The last valid time in seconds: up to here nanoseconds since 1970 fit into 63 bits.
const LAST_TIME: i64 = i64::MAX / 1_000_000_000;

/// Whether a block is a tar header: not empty and with the right checksum.
fn is_header(block: &[u8]) -> bool {
    if block.len() < BLOCK || block[..BLOCK].iter().all(|&b| b == 0) {
        return false;
    }
    let field: String = block[148..156].iter().map(|&b| b as char).collect();
    let Ok(expected) = u64::from_str_radix(field.trim_matches(['\0', ' ']), 8) else { return false };
    let byte = |i: usize| if (148..156).contains(&i) { b' ' } else { block[i] };
    let unsigned: u64 = (0..BLOCK).map(|i| u64::from(byte(i))).sum();
    let signed: i64 = (0..BLOCK).map(|i| i64::from(byte(i).cast_signed())).sum();
    expected == unsigned || i64::try_from(expected).is_ok_and(|e| e == signed)
}

/// Keeps the first bytes and then fails, to stop the writer.
struct Head(Vec<u8>);

impl Write for Head {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() >= BLOCK {
            return Err(std::io::Error::other("enough"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Decompresses all streams of a file. Bytes after the last one, such as padding, are ignored.
fn decompress(kind: ArchiveFormat, file: &File, out: &mut dyn Write) -> std::io::Result<()> {
    let mut input = BufReader::with_capacity(128 << 10, file);
    loop {
        match kind {
            ArchiveFormat::Plain => std::io::copy(&mut input, out)?,
            ArchiveFormat::Gzip => std::io::copy(&mut flate2::bufread::GzDecoder::new(&mut input), out)?,
            ArchiveFormat::Bzip2 => std::io::copy(&mut bzip2::bufread::BzDecoder::new(&mut input), out)?,
            ArchiveFormat::Zstd => {
                std::io::copy(&mut zstd::Decoder::with_buffer(&mut input)?.single_frame(), out)?
            }
            ArchiveFormat::Xz => std::io::copy(&mut liblzma::bufread::XzDecoder::new(&mut input), out)?,
        };
        let mut magic = Vec::with_capacity(8);
        Read::by_ref(&mut input).take(8).read_to_end(&mut magic)?;
        if kind == ArchiveFormat::Plain || ArchiveFormat::of_content(&magic) != kind {
            return Ok(());
        }
        input.seek_relative(-(magic.len() as i64))?;
    }
}

/// The compression of a tar archive; `None` if the file is not one.
fn recognise(file: &mut File) -> Result<Option<ArchiveFormat>> {
    let mut magic = Vec::with_capacity(8);
    Read::by_ref(file).take(8).read_to_end(&mut magic)?;
    file.seek(SeekFrom::Start(0))?;
    let format = ArchiveFormat::of_content(&magic);
    let mut head = Head(Vec::new());
    // The error is that of `Head`, or the file is not an archive: the bytes decide.
    let _ = match format {
        ArchiveFormat::Plain => {
            std::io::copy(&mut Read::by_ref(file).take(BLOCK as u64), &mut head).map(drop)
        }
        other => decompress(other, file, &mut head),
    };
    file.seek(SeekFrom::Start(0))?;
    Ok(is_header(&head.0).then_some(format))
}

/// The state of unpacking one archive into the plan.
struct Unpacking<'a> {
    file: Arc<File>,
    length: u64,
    top: &'a LayerPath,
    spec: &'a CopySpec,
    /// How many header bytes of the current member may still be read.
    left: &'a Cell<u64>,
    /// Distinguishes the hard links of this archive from those of others.
    number: u64,
    /// The number of hard links so far.
    names: u64,
    /// The members that `--exclude` leaves out, by their paths in the archive: a later link may name one.
    left_out: HashMap<LayerPath, PlannedEntry>,
    link_owners: HashMap<LinkGroup, Entry>,
    spool: Option<SparseSpool>,
}

impl Unpacking<'_> {
    /// The position of the content of a member that is not sparse.
    fn range<R: Read>(&self, member: &tar::Entry<'_, R>) -> Result<(Arc<File>, u64, u64)> {
        let (offset, size) = (member.raw_file_position(), member.size());
        if offset.checked_add(size).is_none_or(|end| end > self.length) {
            return Err(Error::invalid("the archive is damaged: it ends before the member does"));
        }
        Ok((self.file.clone(), offset, size))
    }
}

impl Planner<'_> {
    /// Plans the members of a file if it is an archive; otherwise returns false.
    pub(super) fn unpack(
        &mut self,
        root: &Arc<SourceRoot>,
        path: &[u8],
        metadata: &Metadata,
        spec: &CopySpec,
    ) -> Result<bool> {
        if metadata.size < 9 {
            return Ok(false);
        }
        let mut file = root.open_file(path)?;
        let Some(format) = recognise(&mut file).context("path", escape(path))? else { return Ok(false) };
        if format != ArchiveFormat::Plain {
            let mut plain = self.spool()?;
            decompress(format, &file, &mut plain).map_err(|e| {
                Error::new(ErrorKind::Invalid, "cannot decompress the archive to unpack").with_source(e)
            })?;
            file = plain;
            file.seek(SeekFrom::Start(0))?;
        }
        let top = self.resolve(&LayerPath::root(), spec.destination.as_bytes())?;
        self.ensure_directory(&top, 0o755, spec.chown)?;
        self.members(file, &top, spec).context("archive", escape(path))?;
        Ok(true)
    }

    /// Makes an unnamed file for decompressed bytes.
    fn spool(&self) -> Result<File> {
        let Some(folder) = &self.scratch else {
            return Err(Error::internal("compressed archives need a scratch folder"));
        };
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::TMPFILE;
        match rustix::fs::open(folder, flags, Mode::RUSR | Mode::WUSR) {
            Ok(fd) => return Ok(File::from(fd)),
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR) => {}
            Err(e) => return Err(Error::io("cannot make a file in the scratch folder", folder, e.into())),
        }
        // Some file systems do not support unnamed files: then the name is removed at once.
        let path = folder.join(format!("unpack-{}-{:p}", std::process::id(), std::ptr::from_ref(self)));
        let failed = |e| Error::io("cannot make a file in the scratch folder", &path, e);
        let file = File::options().read(true).write(true).create_new(true).open(&path).map_err(failed)?;
        std::fs::remove_file(&path).map_err(failed)?;
        Ok(file)
    }

    fn members(&mut self, file: File, top: &LayerPath, spec: &CopySpec) -> Result<()> {
        let length = file.metadata()?.len();
        let file = Arc::new(file);
        let left = Cell::new(MAX_HEADERS);
        let inner = BufReader::with_capacity(64 << 10, &*file);
        let mut archive = tar::Archive::new(Bounded { inner, left: &left });
        let mut unpacking = Unpacking {
            file: file.clone(),
            length,
            top,
            spec,
            left: &left,
            number: self.next_number(),
            names: 0,
            left_out: HashMap::new(),
            link_owners: HashMap::new(),
            spool: None,
        };
        for member in archive.entries_with_seek()? {
            let mut member = member.map_err(damaged)?;
            left.set(MAX_HEADERS);
            self.member(&mut unpacking, &mut member)?;
        }
        if !unpacking.link_owners.is_empty() {
            self.apply_links(&unpacking.link_owners);
        }
        Ok(())
    }

    /// Adds one member to the plan.
    fn member<R: Read>(&mut self, archive: &mut Unpacking<'_>, member: &mut tar::Entry<'_, R>) -> Result<()> {
        let (top, spec) = (archive.top, archive.spec);
        let entry_type = member.header().entry_type();
        if entry_type == EntryType::XGlobalHeader {
            return Ok(());
        }
        let name = member.path_bytes().into_owned();
        let mut sparse = SparseRecords::default();
        let (mut entry, capability) =
            member_entry(member, &mut sparse, spec.chown).context("member", escape(&name))?;
        let name = sparse.name().map_or(name, <[u8]>::to_vec);
        let excluded = excluded_member(&spec.exclude, &name);
        let path = match &excluded {
            Some(path) => Some(path.clone()),
            None => self.member_path(top, &name)?,
        };
        let Some(path) = path else {
            if name.starts_with(b"/") {
                self.top_entry(top, entry, entry_type).context("member", escape(&name))?;
            }
            return Ok(());
        };
        entry.path.clone_from(&path);
        if sparse.is_sparse() && !matches!(entry_type, EntryType::Regular | EntryType::Continuous) {
            return Err(Error::invalid("only a file can have holes").with_context("member", escape(&name)));
        }
        let (content, links) = match entry_type {
            EntryType::Link => {
                let target = member.link_name_bytes().map(|l| l.into_owned()).unwrap_or_default();
                let (content, group) = self.hard_link(archive, &mut entry, &name, &target)?;
                (content, Some(group))
            }
            _ => (self.content(archive, member, &mut entry, &sparse, &name)?, None),
        };
        if let (Some(value), EntryKind::File { .. }) = (capability, &entry.kind) {
            entry.xattrs.insert(CAPABILITY.as_bytes().to_vec(), value);
        }
        let existing = match excluded {
            Some(_) => None,
            None => self.kind(&path),
        };
        if existing.is_some() && !(entry.is_directory() && existing == Some(EntryKind::Directory)) {
            self.remove(&path);
        }
        let planned = PlannedEntry { entry, content, links: links.map(Box::new) };
        match excluded {
            Some(_) => drop(archive.left_out.insert(path, planned)),
            None => self.pending.insert(planned),
        }
        Ok(())
    }

    /// Sets the kind of a member that is not a hard link, and finds its content.
    fn content<R: Read>(
        &self,
        archive: &mut Unpacking<'_>,
        member: &mut tar::Entry<'_, R>,
        entry: &mut Entry,
        sparse: &SparseRecords,
        name: &[u8],
    ) -> Result<Content> {
        entry.kind = match member.header().entry_type() {
            EntryType::Directory => EntryKind::Directory,
            // Old archives mark directories only by the slash.
            EntryType::Regular if name.ends_with(b"/") && member.header().as_old().linkflag == [0] => {
                EntryKind::Directory
            }
            kind @ (EntryType::GNUSparse | EntryType::Regular | EntryType::Continuous) => {
                let range = match sparse.is_sparse() || kind == EntryType::GNUSparse {
                    true => self.spooled(archive, member, sparse),
                    false => archive.range(member),
                };
                let (file, offset, size) = range.context("member", escape(name))?;
                entry.kind = EntryKind::File { size, digest: None };
                return Ok(Content::Range { file, offset, size });
            }
            EntryType::Symlink => {
                entry.mode = 0o777;
                let target = member.link_name_bytes().map(|l| l.into_owned()).unwrap_or_default();
                EntryKind::Symlink { target }
            }
            EntryType::Char => {
                let (major, minor) = device(member.header())?;
                EntryKind::CharDevice { major, minor }
            }
            EntryType::Block => {
                let (major, minor) = device(member.header())?;
                EntryKind::BlockDevice { major, minor }
            }
            EntryType::Fifo => EntryKind::Fifo,
            other => {
                return Err(Error::unsupported(format!(
                    "members of the tar type {:?} cannot be unpacked",
                    other.as_byte() as char
                ))
                .with_context("member", escape(name)));
            }
        };
        Ok(Content::None)
    }

    /// Unpacks the content of a sparse file and returns its position.
    fn spooled<R: Read>(
        &self,
        archive: &mut Unpacking<'_>,
        member: &mut tar::Entry<'_, R>,
        sparse: &SparseRecords,
    ) -> Result<(Arc<File>, u64, u64)> {
        let spool = match &mut archive.spool {
            Some(open) => open,
            None => archive.spool.insert(SparseSpool::new(self.spool()?)),
        };
        let size = member.size();
        // The data itself is read here, not only the headers.
        archive.left.set(u64::MAX);
        let unpacked = match sparse.is_sparse() {
            true => spool.member(sparse, member, size),
            false => spool.whole(member, size),
        };
        archive.left.set(MAX_HEADERS);
        let (offset, size) = unpacked?;
        Ok((spool.file.clone(), offset, size))
    }

    /// Makes the entry of a hard link another name of an earlier member.
    fn hard_link(
        &mut self,
        archive: &mut Unpacking<'_>,
        entry: &mut Entry,
        name: &[u8],
        link: &[u8],
    ) -> Result<(Content, LinkGroup)> {
        archive.names += 1;
        let first = match excluded_member(&archive.spec.exclude, link) {
            Some(target) => archive.left_out.get_mut(&target),
            None => {
                let target = self.member_path(archive.top, link)?.unwrap_or_default();
                self.pending.get_mut(&target)
            }
        };
        let Some(first) = first.filter(|p| !p.entry.is_directory()) else {
            return Err(Error::unsupported(format!(
                "the hard link `{}` names `{}`, which is not an earlier member of the archive",
                escape(name),
                escape(link)
            )));
        };
        let new = || Box::new((archive.number, u64::MAX, archive.names));
        let group = **first.links.get_or_insert_with(new);
        entry.xattrs.clone_from(&first.entry.xattrs);
        // The metadata of the link applies to all names; the kind is that of the file.
        archive.link_owners.insert(group, entry.clone());
        entry.kind.clone_from(&first.entry.kind);
        Ok((first.content.clone(), group))
    }

    /// The last link to a file sets the owner, mode and time for all its names.
    fn apply_links(&mut self, last: &HashMap<LinkGroup, Entry>) {
        self.pending.change_links(|group| last.get(group));
    }

    /// Sets the owner, mode and time of the destination from the root member of the archive. Like BuildKit, a layer has
    /// no entry for the root of the image.
    fn top_entry(&mut self, top: &LayerPath, member: Entry, kind: EntryType) -> Result<()> {
        if kind != EntryType::Directory {
            return Err(Error::invalid("the root of the archive is not a directory"));
        }
        if top.is_root() {
            return Ok(());
        }
        let entry = match self.metadata(top) {
            Some(found) => Entry {
                mode: member.mode,
                uid: member.uid,
                gid: member.gid,
                mtime: member.mtime,
                nanoseconds: member.nanoseconds,
                ..found.into_owned()
            },
            None => Entry { path: top.clone(), ..member },
        };
        self.pending.insert(PlannedEntry::new(entry, Content::None));
        Ok(())
    }

    /// The destination path of a member, with its missing parents made; `None` for the destination itself.
    fn member_path(&mut self, top: &LayerPath, name: &[u8]) -> Result<Option<LayerPath>> {
        // Like in GNU tar, a member without a name is the folder itself.
        if name.is_empty() {
            return Ok(None);
        }
        let clean = LayerPath::from_archive(name).map_err(|e| {
            Error::invalid("the archive has a name that leads out of it or is not a valid path")
                .with_source(e)
        })?;
        if clean.is_root() {
            return Ok(None);
        }
        check_name(clean.file_name())?;
        let parent = clean.parent().unwrap_or_default();
        let parent = self.resolve(top, parent.as_bytes())?;
        self.ensure_directory(&parent, 0o755, Some(Owner::default()))?;
        Ok(Some(parent.join(clean.file_name())?))
    }
}

/// The path of a member if it is left out; `None` if it is kept.
fn excluded_member(exclude: &PatternList, name: &[u8]) -> Option<LayerPath> {
    if exclude.is_empty() {
        return None;
    }
    // An invalid name is rejected later, when the member is placed.
    let path = LayerPath::from_archive(name).ok()?;
    let (excluded, _) = exclude.matches(path.as_bytes(), &ParentMatch::default());
    (excluded && !path.is_root()).then_some(path)
}

/// Limits the header bytes: the tar reader takes each header into memory, whatever its announced length.
struct Bounded<'a, R> {
    inner: R,
    left: &'a Cell<u64>,
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.left.get()).unwrap_or(usize::MAX));
        if most == 0 && !buffer.is_empty() {
            let limit = MAX_HEADERS >> 20;
            return Err(std::io::Error::other(format!("the headers of a member are above {limit} MiB")));
        }
        let count = self.inner.read(&mut buffer[..most])?;
        self.left.set(self.left.get() - count as u64);
        Ok(count)
    }
}

impl<R: Seek> Seek for Bounded<'_, R> {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.inner.seek(to)
    }
}

/// The device number in a header.
fn device(header: &tar::Header) -> Result<(u32, u32)> {
    Ok((header.device_major()?.unwrap_or(0), header.device_minor()?.unwrap_or(0)))
}

fn damaged(e: std::io::Error) -> Error {
    Error::new(ErrorKind::Invalid, "the archive is damaged").with_source(e)
}

/// The metadata of a member, including its PAX records and `security.capability`.
fn member_entry<R: Read>(
    member: &mut tar::Entry<'_, R>,
    sparse: &mut SparseRecords,
    owner: Option<Owner>,
) -> Result<(Entry, Option<Vec<u8>>)> {
    let header = member.header();
    let mode = header.mode().map_err(damaged)? & 0o7777;
    let mut entry = Entry::new(LayerPath::root(), EntryKind::Directory, mode);
    entry.uid = id(header.uid().map_err(damaged)?);
    entry.gid = id(header.gid().map_err(damaged)?);
    entry.mtime = i64::try_from(header.mtime().map_err(damaged)?).unwrap_or(0);
    let mut attribute = None;
    if let Some(records) = member.pax_extensions().map_err(damaged)? {
        for record in records {
            let record = record.map_err(damaged)?;
            // An empty value does not reset earlier records.
            let number = |what: &str| -> Result<Option<i64>> {
                let text = record.value().ok().map(|text| text.split('.').next().unwrap_or_default());
                let wrong = || Error::invalid(format!("the {what} of a member is not a number"));
                match record.value_bytes() {
                    b"" => Ok(None),
                    _ => text.and_then(|t| t.parse().ok()).ok_or_else(wrong).map(Some),
                }
            };
            match record.key_bytes() {
                b"uid" => entry.uid = number("owner")?.map_or(entry.uid, |n| id(n.cast_unsigned())),
                b"gid" => entry.gid = number("group")?.map_or(entry.gid, |n| id(n.cast_unsigned())),
                b"mtime" if record.value_bytes().is_empty() => {}
                b"mtime" => {
                    let time = file_time(record.value_bytes());
                    entry.set_time(
                        time.ok_or_else(|| Error::invalid("the time of a member is not a number"))?,
                    );
                }
                b"SCHILY.xattr.security.capability" => attribute = Some(record.value_bytes().to_vec()),
                key => {
                    if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                        sparse.take(key, record.value_bytes())?;
                    }
                }
            }
        }
    }
    if let Some(owner) = owner {
        (entry.uid, entry.gid) = (owner.uid, owner.gid);
    }
    if !(0..=LAST_TIME).contains(&entry.mtime) {
        entry.set_time(FileTime::of(0));
    }
    Ok((entry, attribute))
}

/// The owner that the kernel uses for a number: its low 32 bits. If all are set, the owner of a new file stays root.
fn id(number: u64) -> u32 {
    let id = number as u32;
    if id == u32::MAX { 0 } else { id }
}
