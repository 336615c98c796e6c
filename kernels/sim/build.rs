//! Compiles the kernels and the stand-in libraries with the host's C++ compiler. Where that fails the crate still builds,
//! and `quire_sim::load` says what is missing.
#![allow(
    clippy::disallowed_methods,
    reason = "cargo speaks to build scripts through the environment"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

const FLAGS: &[&str] = &[
    "-std=c++17",
    "-O2",
    "-g1",
    "-march=native",
    "-fPIC",
    "-fvisibility=hidden",
    "-DQUIRE_EMULATED",
    "-Wall",
    "-Wno-unknown-pragmas",
    "-Wno-unused-function",
    "-Wno-psabi",
    "-pthread",
];

fn main() {
    println!("cargo:rerun-if-env-changed=CXX");
    let sim = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    let kernels = sim.parent().expect("kernels/sim lies in kernels").to_path_buf();
    for folder in
        [sim.join("emulator"), sim.join("driver"), kernels.join("cuda"), kernels.join("src")]
    {
        println!("cargo:rerun-if-changed={}", folder.display());
    }
    let error = build(&sim, &kernels).err().unwrap_or_default();
    println!("cargo:rustc-env=QUIRE_SIM_FOLDER={}", libraries().display());
    println!("cargo:rustc-env=QUIRE_SIM_FLAGS={}", FLAGS.join(" "));
    println!("cargo:rustc-env=QUIRE_SIM_ERROR={}", error.replace('\n', " | "));
    if !error.is_empty() {
        println!(
            "cargo:warning=the CUDA emulator was not built: {}",
            error.lines().next().unwrap_or_default()
        );
    }
}

fn variable(name: &str) -> String {
    std::env::var(name).expect("cargo sets it for build scripts")
}

fn libraries() -> PathBuf {
    PathBuf::from(variable("OUT_DIR")).join("lib")
}

/// `libcuda.so` with every kernel in it, and `libcublasLt.so` and `libnccl.so` on top.
fn build(sim: &Path, kernels: &Path) -> Result<(), String> {
    let out = libraries();
    fs::create_dir_all(&out).map_err(|error| error.to_string())?;
    let mut headers = files(&sim.join("emulator"), "h")?;
    headers.extend(files(&sim.join("driver"), "h")?);
    headers.extend(files(&kernels.join("cuda"), "cuh")?);
    let newest_header = headers.iter().map(|path| modified(path)).max().expect("there are headers");
    let mut sources = files(&sim.join("driver"), "cpp")?;
    sources.extend(files(&kernels.join("src"), "cu")?);
    let includes = [sim.join("emulator"), sim.join("driver"), kernels.join("cuda")];
    let objects = compile(&sources, &includes, newest_header)?;
    let on_top = [("cublaslt.cpp.o", "libcublasLt.so"), ("nccl.cpp.o", "libnccl.so")];
    let is_driver = |object: &PathBuf| on_top.iter().all(|(name, _)| !object.ends_with(name));
    let (driver, others): (Vec<_>, Vec<_>) = objects.into_iter().partition(is_driver);
    let names = driver.iter().filter_map(|object| object.file_name()?.to_str());
    println!("cargo:rustc-env=QUIRE_SIM_OBJECTS={}", names.collect::<Vec<_>>().join(" "));
    link(&out.join("libcuda.so"), &driver, &[])?;
    for (object, library) in on_top {
        let object: Vec<_> = others.iter().filter(|path| path.ends_with(object)).cloned().collect();
        link(&out.join(library), &object, &["-l:libcuda.so", "-Wl,-rpath,$ORIGIN"])?;
    }
    Ok(())
}

/// Object files, compiled anew where a source or a header is newer.
fn compile(
    sources: &[PathBuf],
    includes: &[PathBuf],
    newest_header: SystemTime,
) -> Result<Vec<PathBuf>, String> {
    let folder = PathBuf::from(variable("OUT_DIR"));
    let name = |source: &PathBuf| {
        let file = source.file_name().expect("a file").to_string_lossy();
        folder.join(format!("{file}.o"))
    };
    let objects: Vec<PathBuf> = sources.iter().map(name).collect();
    let (next, errors) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some((source, object)) = {
            let index = next.fetch_add(1, Ordering::Relaxed);
            sources.get(index).map(|source| (source, &objects[index]))
        } {
            // A kernel includes the shared headers and those of its folder, nothing else.
            let own = files(source.parent().expect("a folder"), "cuh").unwrap_or_default();
            let own_header = own.iter().map(|path| modified(path)).max();
            let newest_input =
                modified(source).max(newest_header).max(own_header.unwrap_or(newest_header));
            if object.exists() && modified(object) > newest_input {
                continue;
            }
            let mut command = Command::new(compiler());
            command.args(FLAGS).args(["-x", "c++", "-c"]).arg(source).arg("-o").arg(object);
            if source.ends_with("cublaslt.cpp") {
                command.arg("-O3"); // sums are written in lanes
            }
            for include in includes {
                command.arg("-I").arg(include);
            }
            if let Err(error) = run(command) {
                let _ = fs::remove_file(object);
                errors.lock().expect("no thread panics with it").push(error);
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let errors = errors.into_inner().expect("no thread panics with it");
    errors.into_iter().next().map_or(Ok(objects), Err)
}

/// The name inside the library is the one that programs ask the loader for first.
fn link(library: &Path, objects: &[PathBuf], more: &[&str]) -> Result<(), String> {
    let folder = library.parent().expect("a folder");
    let name = library.file_name().expect("a file").to_string_lossy();
    let mut command = Command::new(compiler());
    command.args(["-shared", "-pthread"]).arg(format!("-Wl,-soname,{name}"));
    command.arg("-o").arg(library).args(objects).arg("-L").arg(folder).args(more);
    run(command)
}

fn compiler() -> String {
    std::env::var("CXX").unwrap_or_else(|_| "g++".into())
}

fn run(mut command: Command) -> Result<(), String> {
    let output = command.output().map_err(|error| {
        format!(
            "{} cannot be started ({error}); install g++, or name a compiler in CXX",
            compiler()
        )
    })?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{} failed:\n{}", compiler(), String::from_utf8_lossy(&output.stderr)))
}

fn modified(path: &Path) -> SystemTime {
    path.metadata().and_then(|data| data.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// The files below `folder` with that ending, in a fixed order.
fn files(folder: &Path, ending: &str) -> Result<Vec<PathBuf>, String> {
    let entries = fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let mut found = Vec::new();
    for path in paths {
        if path.is_dir() {
            found.extend(files(&path, ending)?);
        } else if path.extension().is_some_and(|extension| extension == ending) {
            found.push(path);
        }
    }
    Ok(found)
}
