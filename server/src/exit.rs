//! How the process ends when it cannot go on: by the codes of sysexits(3), where they have one.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Error;
use quire_engine::{EngineOptions, Machine, MemoryPlan, ModelFiles};

/// A model file that is spoilt, or of no use here: no other start helps.
const BAD_MODEL: u8 = 65;
/// No such model, or one that cannot be read.
const NO_MODEL: u8 = 66;
/// After a fault of a GPU or of a rank: not the configuration's, so another start may help.
const ENGINE_STOPPED: u8 = 71;

/// Why a server ends that nobody asked to.
#[derive(Debug, thiserror::Error)]
#[error("the engine has stopped")]
pub(crate) struct EngineStopped;

/// An error of the model, with the words of its cause.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error(transparent)]
    Missing(Error),
    #[error(transparent)]
    Bad(Error),
}

/// The code that tells an orchestrator what `error` means.
pub(crate) fn code_of(error: &Error) -> ExitCode {
    if error.downcast_ref::<EngineStopped>().is_some() {
        return ExitCode::from(ENGINE_STOPPED);
    }
    match error.downcast_ref::<Unusable>() {
        Some(Unusable::Missing(_)) => ExitCode::from(NO_MODEL),
        Some(Unusable::Bad(_)) => ExitCode::from(BAD_MODEL),
        None => ExitCode::FAILURE,
    }
}

/// `error`, of looking for a model.
pub(crate) fn missing_model(error: Error) -> Error {
    Unusable::Missing(error).into()
}

/// `error`, of reading the model at `path`, as what it says of its files.
pub(crate) fn bad_model(error: Error, path: &Path) -> Error {
    let of_system = error.chain().find_map(|cause| cause.downcast_ref::<io::Error>());
    match of_system.map(io::Error::kind) {
        // The machine's matter, not the files'.
        Some(io::ErrorKind::OutOfMemory | io::ErrorKind::WouldBlock) => error,
        _ if is_readable(path) => Unusable::Bad(error).into(),
        _ => Unusable::Missing(error).into(),
    }
}

/// `error`, of planning a model: its file's fault if a CPU cannot have it either, without any flag and however large the machine.
pub(crate) fn bad_plan(error: Error, files: &ModelFiles, machine: &Machine) -> Error {
    let roomy = Machine { available_memory: 1 << 50, ..machine.clone() };
    match MemoryPlan::new(files, &EngineOptions::on_cpu(), &roomy) {
        Ok(_) => error,
        Err(_) => bad_model(error, files.path()),
    }
}

/// `error`, of loading a model. A GPU has more that may fail than the file.
pub(crate) fn bad_load(error: Error, files: &ModelFiles, plan: &MemoryPlan) -> Error {
    match plan.config.gpu {
        None => bad_model(error, files.path()),
        Some(_) => error,
    }
}

/// Whether the file, or all files of the directory, give their first bytes.
fn is_readable(path: &Path) -> bool {
    match fs::read_dir(path) {
        Ok(entries) => {
            let mut files =
                entries.flatten().map(|entry| entry.path()).filter(|path| !path.is_dir());
            files.all(|file| has_bytes(&file))
        }
        Err(_) => has_bytes(path),
    }
}

fn has_bytes(path: &Path) -> bool {
    File::open(path).is_ok_and(|mut file| file.read(&mut [0; 16]).is_ok())
}
