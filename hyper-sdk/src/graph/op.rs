//! The operations of vertices. They are hashed, so they serialise the same way on every machine.

use crate::Digest;
use serde::{Deserialize, Serialize};

/// The number of an input of a vertex.
pub type InputIndex = usize;

/// An operation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Op {
    /// A source: an image, a context or a remote file. It has no inputs.
    Source(SourceOp),
    /// Runs a command in the root file system of input 0.
    Exec(Box<ExecOp>),
    /// Changes files in the root file system of input 0.
    File(FileOp),
}

impl Op {
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("operations are plain data with string keys")
    }
}

/// The source of a vertex without inputs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum SourceOp {
    /// An empty root file system.
    Scratch,
    /// The root file system of an image.
    Image {
        /// The reference, or the name of the context, in the text.
        reference: String,
        /// The image manifest that the reference was resolved to.
        manifest: Digest,
    },
    /// The files of a build context.
    Folder {
        /// The name of the context; empty for the main one.
        name: String,
    },
    /// A web file, in a folder.
    Web(WebSource),
    /// Files of a git repository.
    Git(GitSource),
}

/// A web file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebSource {
    /// The address, `http` or `https`.
    pub url: String,
    /// The name of the file.
    pub file_name: String,
    /// The digest that the content must have.
    pub checksum: Option<Digest>,
}

/// Files of a git repository at one commit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GitSource {
    /// The address that git understands; it may hold a password.
    pub remote: String,
    /// A branch, a tag, `refs/…` or a commit; without, the branch of HEAD.
    pub reference: Option<String>,
    /// The commit, or the object of an annotated tag, that the reference must be; at least its first seven digits.
    pub checksum: Option<String>,
    /// The folder in the repository; without, the whole repository.
    pub subdir: Option<String>,
    /// Whether `.git` is among the files.
    pub keep_git_dir: bool,
    /// Whether the submodules are fetched too.
    pub submodules: bool,
    /// Whether `checksum` is fetched without resolving the reference.
    pub fetch_by_commit: bool,
}

/// Network access of a command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetworkMode {
    /// The network of the request.
    #[default]
    Default,
    /// The network of the host.
    Host,
    /// A loopback interface alone.
    None,
}

/// Privileges of a command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Security {
    /// The default capabilities and a system call filter.
    #[default]
    Sandbox,
    /// All capabilities, no filter.
    Insecure,
}

/// Runs a command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExecOp {
    /// The program and its arguments.
    pub args: Vec<String>,
    /// The environment, in the order that the command sees it.
    pub env: Vec<(String, String)>,
    /// Variables that are not part of the key (proxies).
    #[serde(skip)]
    pub uncached_env: Vec<(String, String)>,
    /// The working directory, absolute.
    pub cwd: String,
    /// `user`, `user:group`, by name or number; empty for root.
    pub user: String,
    /// The mounts. The last one of a target counts.
    pub mounts: Vec<Mount>,
    /// Network access.
    pub network: NetworkMode,
    /// Privileges.
    pub security: Security,
    /// Secrets in the environment: the variable, the id of the secret, and whether it is required.
    pub secret_env: Vec<(String, String, bool)>,
    /// The host name.
    pub hostname: Option<String>,
    /// Devices of the host, by the names in the text.
    pub devices: Vec<DeviceRequest>,
}

/// A device of a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRequest {
    /// The name of a device, a kind of devices, or a class.
    pub name: String,
    /// Whether the build fails without it.
    pub required: bool,
}

impl ExecOp {
    /// A command as root in `/`, without environment.
    pub fn new(args: Vec<String>) -> Self {
        Self {
            args,
            env: Vec::new(),
            uncached_env: Vec::new(),
            cwd: "/".to_owned(),
            user: String::new(),
            mounts: Vec::new(),
            network: NetworkMode::Default,
            security: Security::Sandbox,
            secret_env: Vec::new(),
            hostname: None,
            devices: Vec::new(),
        }
    }
}

/// A mount of a command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mount {
    /// The target, an absolute path.
    pub target: String,
    /// The kind.
    pub kind: MountKind,
}

/// How concurrent commands share a cache mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sharing {
    /// All commands use one folder.
    #[default]
    Shared,
    /// Each command gets its own folder.
    Private,
    /// A command waits for the others.
    Locked,
}

/// Mode and owner of the folder of a cache mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheOwner {
    /// The mode.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

/// The kind of a mount.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum MountKind {
    /// Files of another input.
    Bind {
        /// The input.
        input: InputIndex,
        /// The path in the input.
        source: String,
        /// Whether the command may write. Its changes are discarded.
        writable: bool,
    },
    /// A folder that outlives the build.
    Cache {
        /// Its name.
        id: String,
        /// The input and path of its first content.
        from: Option<(InputIndex, String)>,
        /// Whether the command may not write.
        read_only: bool,
        /// How it is shared.
        sharing: Sharing,
        /// Mode and owner of a new folder; without, those of `from`, or 0755 and root. With them the folder is a copy of
        /// `/cache` in `from`, when that exists.
        owner: Option<CacheOwner>,
    },
    /// A read-only folder with one file from the text: the script of a RUN heredoc.
    Inline {
        /// The name of the file.
        name: String,
        /// The content.
        content: String,
        /// The mode of the file.
        mode: u32,
    },
    /// A file system in memory.
    Tmpfs {
        /// The most bytes.
        size: Option<u64>,
        /// Whether the command may not write.
        read_only: bool,
    },
    /// A secret as a file.
    Secret {
        /// Its id.
        id: String,
        /// Whether the step fails without it.
        required: bool,
        /// The mode of the file.
        mode: u32,
        /// The owner of the file.
        uid: u32,
        /// The group of the file.
        gid: u32,
    },
    /// The socket of an ssh agent.
    Ssh {
        /// The id of the agent.
        id: String,
        /// Whether the step fails without it.
        required: bool,
        /// The mode of the socket.
        mode: u32,
        /// The owner of the socket.
        uid: u32,
        /// The group of the socket.
        gid: u32,
    },
}

/// Changes files, as one layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FileOp {
    /// The changes, in order.
    pub actions: Vec<FileAction>,
    /// Whether the layer is independent of input 0 (`--link`).
    pub link: bool,
}

/// One change of files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum FileAction {
    /// Copies files of another input.
    Copy(Box<CopyAction>),
    /// Makes a directory and its parents, unless it exists.
    MakeDirectory(MakeDirectory),
    /// Writes a file.
    MakeFile(MakeFile),
}

/// Copies files of another input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CopyAction {
    /// The input that has the files.
    pub input: InputIndex,
    /// The paths in it, with wildcards.
    pub sources: Vec<String>,
    /// The path in the root file system, absolute; a trailing slash means a directory.
    pub destination: String,
    /// `user[:group]` of all copied files; without, root.
    pub chown: Option<String>,
    /// The mode of all copied files, octal or symbolic, as written.
    pub chmod: Option<String>,
    /// Whether the parent folders of the sources are kept.
    pub parents: bool,
    /// Patterns of files to leave out.
    pub exclude: Vec<String>,
    /// Whether archives are unpacked. `None` stands for the default: by content for ADD, never for COPY.
    pub unpack: Option<bool>,
    /// Whether the instruction is ADD.
    pub add: bool,
}

/// Makes a directory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MakeDirectory {
    /// The path, absolute.
    pub path: String,
    /// The mode.
    pub mode: u32,
    /// `user[:group]`; without, root.
    pub owner: Option<String>,
}

/// Writes a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MakeFile {
    /// The name of the source, used when the destination is a directory.
    pub name: String,
    /// The path, absolute; with a trailing slash the directory of the file.
    pub destination: String,
    /// The content.
    pub content: String,
    /// `user[:group]`; without, root.
    pub chown: Option<String>,
    /// The mode, octal or symbolic, as written; without, 0644.
    pub chmod: Option<String>,
}
