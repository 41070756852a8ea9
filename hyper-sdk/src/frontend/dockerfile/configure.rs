//! Lowers the instructions that only change the config of the image.

use super::lower::Lowering;
use super::lower_error::LowerResult;
use super::stage::StageState;
use crate::dockerfile::{Arg, CommandForm, CommandLine, Expander, Instruction, Pair, Statement, ports};
use crate::oci::Healthcheck;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;

impl Lowering<'_> {
    pub(super) fn configure(
        &mut self,
        state: &mut StageState,
        statement: &Statement,
        instruction: &Instruction,
    ) -> LowerResult<()> {
        let mut created_by = statement.display();
        match instruction {
            Instruction::Env(env) => {
                for pair in &env.pairs {
                    state.set_env(&pair.key.value, &pair.value.value);
                }
                created_by = format!("ENV {}", join(&env.pairs));
            }
            Instruction::Label(label) => {
                for pair in &label.pairs {
                    state.container().labels.insert(pair.key.value.clone(), pair.value.value.clone());
                }
                created_by = format!("LABEL {}", join(&label.pairs));
            }
            Instruction::User(user) => {
                state.container().user.clone_from(&user.user.value);
                created_by = format!("USER {}", user.user.value);
            }
            Instruction::Cmd(cmd) => {
                state.container().cmd = with_shell(state, &cmd.command);
                // Other builders set this with every CMD; runtimes on Linux ignore it.
                state.container().args_escaped = Some(true);
                state.command_set = true;
            }
            Instruction::Entrypoint(entrypoint) => {
                state.container().entrypoint = with_shell(state, &entrypoint.command);
                if !state.command_set {
                    state.container().cmd = None;
                }
            }
            Instruction::Expose(expose) => {
                for word in &expose.ports {
                    let ports =
                        ports::parse([word.value.as_str()]).map_err(|e| self.error(word, e.message()))?;
                    for port in ports.exposed {
                        state.container().exposed_ports.insert(port, json!({}));
                    }
                }
            }
            Instruction::Volume(volume) => {
                for path in &volume.paths {
                    if path.value.is_empty() {
                        return Err(self.error(path, "VOLUME needs a path that is not empty").into());
                    }
                    state.container().volumes.insert(path.value.clone(), json!({}));
                }
            }
            Instruction::Stopsignal(stop) => {
                super::signal::check(&stop.signal.value, stop.signal.span)?;
                state.container().stop_signal = Some(stop.signal.value.clone());
            }
            Instruction::Shell(shell) => {
                state.container().shell = Some(shell.words.iter().map(|w| w.value.clone()).collect());
            }
            Instruction::Healthcheck(check) => {
                let nanoseconds = |d: Duration| i64::try_from(d.as_nanos()).ok().filter(|n| *n != 0);
                let mut health = Healthcheck { test: check.test(), ..Healthcheck::default() };
                if let Some(command) = &check.check {
                    health.interval = nanoseconds(command.interval);
                    health.timeout = nanoseconds(command.timeout);
                    health.start_period = nanoseconds(command.start_period);
                    health.start_interval = nanoseconds(command.start_interval);
                    health.retries = Some(i64::from(command.retries)).filter(|n| *n != 0);
                }
                state.container().healthcheck = Some(health);
            }
            Instruction::Onbuild(onbuild) => {
                // A trigger is not part of the history of this image.
                state.container().on_build.push(onbuild.expression.clone());
                return Ok(());
            }
            Instruction::Maintainer(maintainer) => {
                state.config.author = Some(maintainer.name.value.clone());
            }
            Instruction::From(_)
            | Instruction::Run(_)
            | Instruction::Copy(_)
            | Instruction::Add(_)
            | Instruction::Workdir(_)
            | Instruction::Arg(_) => {
                return Err(crate::Error::internal("an instruction that makes more than config").into());
            }
        }
        state.record(created_by, false);
        Ok(())
    }

    pub(super) fn arg(
        &mut self,
        state: &mut StageState,
        _statement: &Statement,
        arg: &Arg,
        globals: &BTreeMap<String, String>,
    ) -> LowerResult<()> {
        let mut shown = Vec::new();
        for variable in &arg.variables {
            let name = &variable.name.value;
            // A build argument overrides the default, and the default a global argument.
            let value = match (self.options.build_args.get(name), &variable.default) {
                (Some(given), _) => Some(given.clone()),
                (None, Some(default)) => {
                    let expanded = Expander::new(self.escape())
                        .word(&default.value, &state.variables)
                        .map_err(|e| self.error(default, e.to_string()))?;
                    Some(expanded.text)
                }
                (None, None) => globals.get(name).cloned(),
            };
            state.set_argument(name, value.as_deref());
            shown.push(match value {
                Some(value) => format!("{name}={value}"),
                None => name.clone(),
            });
        }
        state.record(format!("ARG {}", shown.join(" ")), false);
        Ok(())
    }
}

fn join(pairs: &[Pair]) -> String {
    let shown: Vec<String> = pairs.iter().map(|p| format!("{}={}", p.key.value, p.value.value)).collect();
    shown.join(" ")
}

/// The words of a command; `None` for an empty exec form, which removes the command.
fn with_shell(state: &StageState, command: &CommandLine) -> Option<Vec<String>> {
    match command.form {
        CommandForm::Exec => Some(command.arguments()).filter(|words| !words.is_empty()),
        CommandForm::Shell => {
            let mut words = state.shell();
            words.push(command.text());
            Some(words)
        }
    }
}
