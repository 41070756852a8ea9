//! `hyperbuild login`.

use crate::args::TransportArgs;
use crate::console::Console;
use crate::failure::Failure;
use crate::terminal::message;
use clap::Args;
use hyper_sdk::client::CredentialCheck;
use hyper_sdk::reference::RegistryHost;
use hyper_sdk::session::{Session, login_credentials};
use hyper_sdk::{Error, ErrorKind, Result};
use rustix::termios::{self, LocalModes, OptionalActions};
use std::io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _};

/// Logs in to a registry, and keeps the credentials for Docker and for hyperbuild
///
/// The registry checks the credentials before they are kept, in the `config.json` of --config or with the credential
/// helper that it names. A registry that everybody may pull from checks them for a push, of which nothing is sent. When it
/// never asks for credentials, they are kept with a warning.
#[derive(Debug, Args)]
pub(crate) struct LoginArgs {
    /// Host of the registry; the URL of its root will do
    #[arg(value_name = "HOST", default_value = "docker.io", value_parser = RegistryHost::from_address)]
    host: RegistryHost,
    /// Name of the user; asked for on a terminal without it
    #[arg(short, long, value_name = "NAME")]
    username: Option<String>,
    /// Reads the password from standard input, not from the terminal
    #[arg(long)]
    password_stdin: bool,
    #[command(flatten)]
    pub(super) transport: TransportArgs,
}

pub(crate) async fn run(args: LoginArgs, session: &Session, console: &Console) -> Result<(), Failure> {
    // Nothing is asked for in vain.
    session.credentials_file()?;
    let username = match args.username {
        Some(name) => name,
        None if args.password_stdin => return Err(Failure::usage("--password-stdin needs --username")),
        None => ask("Username: ", true).await?,
    };
    let password = if args.password_stdin {
        // On a thread of its own, so that Ctrl-C still ends the program.
        let read = tokio::task::spawn_blocking(|| {
            let mut text = String::new();
            io::stdin().lock().take(1 << 20).read_to_string(&mut text).map(|_| text)
        });
        let text = read
            .await
            .map_err(|e| Error::internal("the task that reads the password failed").with_source(e))?;
        let text = text.map_err(Error::from)?;
        text.trim_end_matches(['\r', '\n']).to_owned()
    } else {
        ask("Password: ", false).await?
    };
    let credentials = login_credentials(&username, &password).map_err(|e| Failure::usage(e.message()))?;
    let login = session.login(&args.host, &credentials).await.map_err(|e| {
        let refused = e.kind() == ErrorKind::Unauthorized;
        let failure = Failure::from(e);
        if refused { failure.with_hint("check the user name and the password") } else { failure }
    })?;
    if login.check != CredentialCheck::Accepted {
        let host = &args.host;
        console.warn(&format!("{host} does not ask for credentials: it cannot check these"));
    }
    console.message(&format!(
        "logged in to {}; the credentials are kept by way of {}",
        args.host,
        login.file.display()
    ));
    Ok(())
}

/// Asks on the terminal, on a thread of its own so that Ctrl-C still ends the program.
async fn ask(prompt: &'static str, echo: bool) -> Result<String, Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::usage("there is no terminal to ask on: give --username and --password-stdin"));
    }
    // The guard belongs to this future: when Ctrl-C drops it, the echo comes back although the thread still reads.
    let _echo = if echo { None } else { Some(EchoOff::new()?) };
    let read = tokio::task::spawn_blocking(move || -> io::Result<String> {
        let mut terminal = io::stderr().lock();
        terminal.write_all(prompt.as_bytes()).and_then(|()| terminal.flush())?;
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line)?;
        Ok(line.trim_end_matches(['\r', '\n']).to_owned())
    });
    let line = read
        .await
        .map_err(|e| Error::internal("the task that reads from the terminal failed").with_source(e))?;
    if !echo {
        message("");
    }
    Ok(line.map_err(Error::from)?)
}

/// A terminal that does not show what is typed, until this is dropped.
struct EchoOff(termios::Termios);

impl EchoOff {
    fn new() -> Result<Self> {
        let before = termios::tcgetattr(io::stdin()).map_err(io::Error::from)?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        termios::tcsetattr(io::stdin(), OptionalActions::Flush, &silent).map_err(io::Error::from)?;
        Ok(Self(before))
    }
}

impl Drop for EchoOff {
    fn drop(&mut self) {
        // The terminal may be gone: then there is nothing to restore.
        let _ = termios::tcsetattr(io::stdin(), OptionalActions::Flush, &self.0);
    }
}
