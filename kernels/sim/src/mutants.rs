//! Builds the stand-in driver again with one kernel's source changed: to see that tests notice a planted bug.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the folder `kernels` lies.
fn kernels() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().expect("it lies in kernels").to_path_buf()
}

/// Builds the libraries in `folder` with `from` replaced by `to`, once, in the source file `file` (relative to
/// `kernels/src`); every other kernel is as it is. Says what went wrong.
pub fn build(folder: &Path, file: &str, from: &str, to: &str) -> Result<(), String> {
    let source = kernels().join("src").join(file);
    let own_folder = source.parent().expect("a file of an op");
    fs::create_dir_all(folder).map_err(|error| error.to_string())?;
    for path in sources(own_folder) {
        let text = fs::read_to_string(&path).map_err(|error| error.to_string())?;
        let text = match path == source {
            true if text.matches(from).count() == 1 => text.replacen(from, to, 1),
            true => return Err(format!("{file} does not have `{from}` once")),
            false => text,
        };
        let name = path.file_name().expect("a file");
        fs::write(folder.join(name), text).map_err(|error| error.to_string())?;
    }
    // Those that the change reaches.
    let is_changed = |path: &PathBuf| {
        is_kernel(path) && (!is_kernel(&source) || path.file_name() == source.file_name())
    };
    let changed: Vec<PathBuf> = sources(folder).into_iter().filter(is_changed).collect();
    for kernel in &changed {
        compile(kernel)?;
    }
    link(folder, &changed)
}

fn is_kernel(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "cu")
}

/// Kernels and their headers directly in `folder`.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    paths.filter(|path| is_kernel(path) || path.extension().is_some_and(|e| e == "cuh")).collect()
}

fn object(of: &Path) -> PathBuf {
    of.with_file_name(format!("{}.o", of.file_name().expect("a file").to_string_lossy()))
}

fn compile(kernel: &Path) -> Result<(), String> {
    let mut command = Command::new("g++");
    command.args(env!("QUIRE_SIM_FLAGS").split(' ')).args(["-x", "c++", "-w", "-c"]).arg(kernel);
    command.arg("-o").arg(object(kernel));
    for include in ["sim/emulator", "sim/driver", "cuda"] {
        command.arg("-I").arg(kernels().join(include));
    }
    run(command)
}

/// The changed kernels in the place of the objects of the same names.
fn link(folder: &Path, changed: &[PathBuf]) -> Result<(), String> {
    let built = PathBuf::from(env!("QUIRE_SIM_FOLDER"));
    let objects = built.parent().expect("libraries lie below the objects");
    let mut command = Command::new("g++");
    command.args(["-shared", "-pthread", "-Wl,-soname,libcuda.so", "-o"]);
    command.arg(folder.join("libcuda.so"));
    for name in env!("QUIRE_SIM_OBJECTS").split(' ') {
        let own = changed.iter().map(|kernel| object(kernel)).find(|object| object.ends_with(name));
        command.arg(own.unwrap_or_else(|| objects.join(name)));
    }
    run(command)?;
    for name in &crate::LIBRARIES_OF_FOLDER[1..] {
        fs::copy(built.join(name), folder.join(name)).map_err(|error| error.to_string())?;
    }
    Ok(())
}

fn run(mut command: Command) -> Result<(), String> {
    let output = command.output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).into_owned())
}
