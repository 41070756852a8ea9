//! The table of all rules.

mod context;
mod instructions;
mod modes;
mod names;
mod ports;
mod shell;
mod variables;

use super::Rule;

/// All rules: first those of the language, by topic, then those about the text of RUN.
pub const RULES: &[&Rule] = &[
    &names::STAGE_NAME_CASING,
    &names::FROM_AS_CASING,
    &names::NO_EMPTY_CONTINUATION,
    &names::CONSISTENT_INSTRUCTION_CASING,
    &names::DUPLICATE_STAGE_NAME,
    &names::RESERVED_STAGE_NAME,
    &instructions::JSON_ARGS_RECOMMENDED,
    &instructions::MAINTAINER_DEPRECATED,
    &variables::UNDEFINED_ARG_IN_FROM,
    &instructions::WORKDIR_RELATIVE_PATH,
    &variables::UNDEFINED_VAR,
    &instructions::MULTIPLE_INSTRUCTIONS_DISALLOWED,
    &instructions::LEGACY_KEY_VALUE_FORMAT,
    &context::INVALID_BASE_IMAGE_PLATFORM,
    &context::REDUNDANT_TARGET_PLATFORM,
    &variables::SECRETS_USED_IN_ARG_OR_ENV,
    &variables::INVALID_DEFAULT_ARG_IN_FROM,
    &context::FROM_PLATFORM_FLAG_CONST_DISALLOWED,
    &context::COPY_IGNORED_FILE,
    &names::INVALID_DEFINITION_DESCRIPTION,
    &ports::EXPOSE_PROTO_CASING,
    &ports::EXPOSE_INVALID_FORMAT,
    &modes::CHMOD_CLOSES_NEW_FOLDER,
    &shell::SHELL_CD_WITHOUT_EFFECT,
    &shell::SHELL_EXPORT_WITHOUT_EFFECT,
    &shell::SHELL_PIPE_HIDES_FAILURE,
    &shell::SHELL_SUDO_USED,
    &shell::APT_INSTALL_WITHOUT_YES,
    &shell::APT_UPDATE_ALONE,
    &shell::APT_LISTS_REMOVED_TOO_LATE,
    &shell::CURL_WITHOUT_FAIL,
];

/// The default fields of a rule.
const PLAIN: Rule = Rule {
    name: "",
    summary: "",
    why: "",
    bad: "",
    good: "",
    ignore_file: None,
    experimental: false,
    fixable: false,
    check: |_, _| {},
};
