//! Compiles every kernel (`src/**/*.cu`) with nvcc and embeds the results. Without nvcc the crate builds all the same, and
//! `--device cuda` says what to do.
#![allow(
    clippy::disallowed_methods,
    reason = "cargo speaks to build scripts through the environment"
)]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

/// Compute capabilities whose machine code is embedded; of the first also PTX, from which drivers make code for others.
const ARCHITECTURES: &str = "80,90a,100a,120";

/// Where files go that include `hopper.cuh`.
const HOPPER: &str = "90a";

/// The oldest release of nvcc that knows all of them.
const OLDEST_NVCC: u32 = 13;

fn main() {
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    for path in ["cuda", "src", "toolchain"] {
        println!("cargo:rerun-if-changed={path}");
    }
    for name in ["CUDA_HOME", "CUDA_PATH", "QUIRE_CUDA_ARCHITECTURES"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    let images = match find_nvcc(&root) {
        Some(nvcc) => compile_all(&root, &nvcc),
        None => Vec::new(),
    };
    write_table(&images);
}

fn variable(name: &str) -> String {
    std::env::var(name).expect("cargo sets it for build scripts")
}

/// What `make cuda-toolchain` installed, else a toolkit of this machine.
fn find_nvcc(root: &Path) -> Option<PathBuf> {
    let homes = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(std::env::var_os);
    let mut folders = vec![root.join("toolchain/nvidia/cu13/bin")];
    folders.extend(homes.map(|home| PathBuf::from(home).join("bin")));
    folders.extend(std::env::var_os("PATH").iter().flat_map(std::env::split_paths));
    folders.push("/usr/local/cuda/bin".into());
    let found =
        folders.into_iter().map(|folder| folder.join("nvcc")).find(|path| path.is_file())?;
    let output = Command::new(&found).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let release = text.split("release ").nth(1)?.split('.').next()?.parse::<u32>().ok()?;
    if release < OLDEST_NVCC {
        println!(
            "cargo:warning={} is release {release}, {OLDEST_NVCC} is needed: no CUDA kernels",
            found.display()
        );
        return None;
    }
    Some(found)
}

/// A compiled source file.
struct Image {
    name: String,
    fatbin: PathBuf,
    report: PathBuf,
}

fn compile_all(root: &Path, nvcc: &Path) -> Vec<Image> {
    let newest = |folder: &Path| files(folder, "cuh").iter().map(|path| modified(path)).max();
    let newest_shared = newest(&root.join("cuda"));
    let sources = files(&root.join("src"), "cu");
    let out = PathBuf::from(variable("OUT_DIR"));
    let image = |source: &PathBuf| {
        let name = source.file_stem().expect("a file").to_string_lossy().into_owned();
        let (fatbin, report) =
            (out.join(format!("{name}.fatbin")), out.join(format!("{name}.txt")));
        Image { name, fatbin, report }
    };
    let images: Vec<Image> = sources.iter().map(image).collect();
    let (next, errors) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some(index) =
            Some(next.fetch_add(1, Ordering::Relaxed)).filter(|&i| i < sources.len())
        {
            let (source, image) = (&sources[index], &images[index]);
            // A kernel includes the shared headers and those of its folder, nothing else.
            let newest_header = newest_shared.max(newest(source.parent().expect("a folder")));
            let newest_input = Some(modified(source)).max(newest_header);
            let is_fresh = image.fatbin.exists() && Some(modified(&image.fatbin)) > newest_input;
            if !is_fresh && let Err(error) = compile(root, nvcc, source, image) {
                let _ = fs::remove_file(&image.fatbin);
                errors.lock().expect("no thread panics with it").push(error);
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let errors = errors.into_inner().expect("no thread panics with it");
    assert!(errors.is_empty(), "{}", errors.join("\n"));
    images
}

fn compile(root: &Path, nvcc: &Path, source: &Path, image: &Image) -> Result<(), String> {
    let mut command = Command::new(nvcc);
    command.args([
        "-std=c++17",
        "-O3",
        "-fatbin",
        "-Xfatbin=-compress-all",
        "--compress-mode=size",
    ]);
    command.args(["-Xptxas=-v", "-Werror=all-warnings", "-I"]).arg(root.join("cuda"));
    let wanted = std::env::var("QUIRE_CUDA_ARCHITECTURES").unwrap_or(ARCHITECTURES.into());
    let text = fs::read_to_string(source).map_err(|error| error.to_string())?;
    let is_for_hopper = text.contains("#include \"hopper.cuh\"");
    for (index, name) in wanted.split(',').enumerate() {
        if is_for_hopper && name != HOPPER {
            continue;
        }
        command.arg(format!("-gencode=arch=compute_{name},code=sm_{name}"));
        if index == 0 && !is_for_hopper {
            command.arg(format!("-gencode=arch=compute_{name},code=compute_{name}"));
        }
    }
    command.arg("-o").arg(&image.fatbin).arg(source);
    let output = command.output().map_err(|error| format!("{}: {error}", nvcc.display()))?;
    let report = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("nvcc {}:\n{report}", source.display()));
    }
    fs::write(&image.report, &*report).map_err(|error| error.to_string())
}

/// What `src/cuda/images.rs` includes.
fn write_table(images: &[Image]) {
    let mut table = format!(
        "/// Whether nvcc was found when this binary was built.\npub const IS_BUILT: bool = {};\n",
        !images.is_empty()
    );
    table += "/// Source file and fat binary.\npub(super) const ALL: &[(&str, &[u8])] = &[\n";
    let mut report = String::new();
    for Image { name, fatbin, report: path } in images {
        let _ = writeln!(table, "    ({name:?}, include_bytes!(\"{}\")),", fatbin.display());
        let text = fs::read_to_string(path).expect("written beside the fat binary");
        let _ = writeln!(report, "== {name}\n{text}");
    }
    if images.is_empty() {
        // So that a driver is asked, and refuses.
        table += "    (\"none\", b\"no kernels\\0\"),\n";
    }
    table += "];\n";
    table += "/// What ptxas said of each kernel: registers, stack, spills.\n";
    let _ = writeln!(table, "pub const PTXAS_REPORT: &str = {report:?};");
    let path = PathBuf::from(variable("OUT_DIR")).join("kernel_images.rs");
    fs::write(path, table).expect("cargo's folder can be written to");
}

fn modified(path: &Path) -> SystemTime {
    path.metadata().and_then(|data| data.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// The files below `folder` with that ending, in a fixed order.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("the source tree can be read");
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let mut found = Vec::new();
    for path in paths {
        if path.is_dir() {
            found.extend(files(&path, ending));
        } else if path.extension().is_some_and(|extension| extension == ending) {
            found.push(path);
        }
    }
    found
}
