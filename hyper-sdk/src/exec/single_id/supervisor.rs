//! The thread of pid 1 that answers the calls of a step.

use super::asked::Asked;
use super::calls::{self, Call};
use super::ids::Ids;
use super::lookup::Caller;
use super::owners::StepOwners;
use super::sys;
use crate::exec::notify::{self, Answer, Request, socketcall};
use crate::sandbox::records::StepRecord;
use crate::{Error, Result};
use rustix::fs::Mode;
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};

/// The largest number of distinct identities; no build has more.
const MOST_IDENTITIES: usize = 1 << 16;

/// The running thread.
pub(in crate::exec) struct Supervisor {
    owners: Arc<Mutex<StepOwners>>,
}

impl Supervisor {
    /// Receives the listener that the command sends and starts to answer calls. Returns `None` when the command ended
    /// without sending it.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`] when `/proc` of the step cannot be opened, and when no thread can be started.
    pub(in crate::exec) fn start(
        from: &UnixStream,
        mut owners: StepOwners,
        user: Ids,
        host_network: bool,
    ) -> Result<Option<Self>> {
        owners.enter()?;
        let Some(listener) = notify::receive(from) else { return Ok(None) };
        let proc = notify::open_proc().map_err(|e| Error::io("cannot open", "/proc", e.into()))?;
        // The umask of the calling process applies to its new files, not the one of this thread.
        rustix::process::umask(Mode::empty());
        notify::wake_in_step(&listener);
        let owners = Arc::new(Mutex::new(owners));
        let mut state = State {
            proc,
            owners: Arc::clone(&owners),
            identities: vec![Ids::of(0, 0, vec![0]), user],
            host_network,
        };
        notify::serve(from, listener, move |listener, request| state.answer(listener, request))?;
        Ok(Some(Self { owners }))
    }

    /// The owners that the step set, to be saved.
    pub(in crate::exec) fn record(&self) -> StepRecord {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner).record()
    }
}

/// The state of the thread.
pub(super) struct State {
    proc: OwnedFd,
    owners: Arc<Mutex<StepOwners>>,
    /// The identities of processes, by number; 0 for processes without one.
    identities: Vec<Ids>,
    /// Whether the step has the network of the host.
    host_network: bool,
}

impl State {
    fn answer(&mut self, listener: &OwnedFd, request: &Request) -> rustix::io::Result<Answer> {
        let Some(known) = calls::known(request.arch, request.number) else { return Ok(Answer::Continue) };
        let ids = self.identities.get(sys::identity(request.pid)).unwrap_or(&self.identities[0]).clone();
        // If the call no longer waits, its process number may have been reused.
        if !notify::still_waits(listener, request) {
            return Ok(Answer::Continue);
        }
        if known.call == Call::Socketcall {
            return socketcall::answer(listener, &self.proc, request, self.host_network);
        }
        let owners = Arc::clone(&self.owners);
        let mut owners = owners.lock().unwrap_or_else(PoisonError::into_inner);
        // A separate handle, since `self` is changed below.
        let proc = self.proc.try_clone().map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::MFILE))?;
        let asked = Asked { request, known, caller: Caller::new(&proc, request), ids };
        use Call::*;
        match known.call {
            Chown | Lchown | Fchown | Fchownat => super::answers::chown(&asked, &mut owners),
            // Without a recorded owner or after an error, the kernel answers.
            Stat | Lstat | Fstat | Fstatat | Statx => {
                Ok(super::answers::status(&asked, &owners).unwrap_or(Answer::Continue))
            }
            Listxattr | Llistxattr | Flistxattr => super::answers::attributes(&asked, &owners),
            Open | Creat | Openat | Openat2 => super::create::open(&asked, &mut owners),
            Mkdir | Mkdirat => super::create::mkdir(&asked, &mut owners),
            Mknod | Mknodat => super::create::mknod(&asked, &mut owners),
            Symlink | Symlinkat => super::create::symlink(&asked, &mut owners),
            Rename | Renameat | Link | Linkat => {
                super::create::hold(&asked, &mut owners);
                Ok(Answer::Continue)
            }
            Execve | Execveat => {
                if let Some(ids) = super::answers::start(&asked, &owners) {
                    self.set_identity(request.pid, &asked.ids, ids)?;
                }
                Ok(Answer::Continue)
            }
            Prctl => {
                let mut ids = asked.ids.clone();
                ids.keep(asked.number(1) != 0);
                self.set_identity(request.pid, &asked.ids, ids).map(|()| Answer::Continue)
            }
            Setrlimit | Prlimit => Ok(Answer::Continue),
            _ => match super::answers::identity(&asked)? {
                (answer, Some(ids)) => self.set_identity(request.pid, &asked.ids, ids).map(|()| answer),
                (answer, None) => Ok(answer),
            },
        }
    }

    /// Changes the identity of a process.
    fn set_identity(&mut self, pid: u32, before: &Ids, ids: Ids) -> rustix::io::Result<()> {
        if ids == *before {
            return Ok(());
        }
        let number = match self.identities.iter().skip(1).position(|known| *known == ids) {
            Some(at) => at + 1,
            None if self.identities.len() >= MOST_IDENTITIES => return Err(Errno::AGAIN),
            None => {
                self.identities.push(ids);
                self.identities.len() - 1
            }
        };
        sys::set_identity(pid, number)
    }
}
