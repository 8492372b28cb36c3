//! The program `chat-svc [configuration file]`.

use std::process::ExitCode;

fn main() -> ExitCode {
    svc_core::run::process::main(chat_svc::start)
}
