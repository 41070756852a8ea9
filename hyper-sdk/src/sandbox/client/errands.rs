//! The caller's side of short requests: see [`super::super::errand`].

use super::{Control, Sandbox, read_reply};
use crate::sandbox::errand::Errand;
use crate::sandbox::protocol::{NoStep, Reply, Request, write_frame};
use crate::{Error, ErrorKind, Result};
use std::os::unix::net::UnixStream;

impl Sandbox {
    /// Has an attendant serve a request, and returns its reply. Dropping the future ends the attendant.
    pub(crate) async fn errand(&self, errand: &Errand) -> Result<Reply> {
        let (control, is_new) = self.attendant(errand)?;
        match Self::answer(control).await {
            // It may have died with its helper since its last request.
            Err(e) if !is_new && is_lost(&e) => {
                self.conclude(Self::answer(self.new_attendant(errand)?).await)
            }
            answered => self.conclude(answered),
        }
    }

    /// The same on this thread.
    pub(crate) fn errand_blocking(&self, errand: &Errand) -> Result<Reply> {
        let answer = |mut control: UnixStream| read_reply(&mut control).map(|reply| (control, reply));
        let (control, is_new) = self.attendant(errand)?;
        match answer(control) {
            Err(e) if !is_new && is_lost(&e) => self.conclude(answer(self.new_attendant(errand)?)),
            answered => self.conclude(answered),
        }
    }

    /// An attendant that has the request, and whether it is a new one.
    fn attendant(&self, errand: &Errand) -> Result<(UnixStream, bool)> {
        if let Some(mut control) = self.0.attendants.take()
            && send(&mut control, errand).is_ok()
        {
            return Ok((control, false));
        }
        self.new_attendant(errand).map(|control| (control, true))
    }

    fn new_attendant(&self, errand: &Errand) -> Result<UnixStream> {
        let mut control = self.begin::<NoStep>(&Request::Attend)?.into_control();
        send(&mut control, errand)
            .map_err(|e| Error::internal("the sandbox helper does not listen").with_source(e))?;
        Ok(control)
    }

    async fn answer(control: UnixStream) -> Result<(UnixStream, Reply)> {
        let mut control = Control::new(control)?;
        let reply = control.reply().await?;
        Ok((control.into_std()?, reply))
    }

    fn conclude(&self, answered: Result<(UnixStream, Reply)>) -> Result<Reply> {
        let (control, reply) = answered?;
        self.0.attendants.put_back(control);
        Ok(reply)
    }
}

/// Whether a process ended without an answer.
fn is_lost(error: &Error) -> bool {
    error.kind() == ErrorKind::Internal
}

fn send(control: &mut UnixStream, errand: &Errand) -> std::io::Result<()> {
    write_frame(control, &serde_json::to_vec(errand).expect("plain data"))
}
