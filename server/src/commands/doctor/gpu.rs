//! The NVIDIA driver: whether its two halves fit each other and this program.

use super::{Finding, Surroundings};

/// The oldest driver that runs machine code of CUDA 13 (NVIDIA, "CUDA Toolkit Release Notes", table of drivers).
const LEAST_DRIVER: u32 = 580;

/// Where distributions and containers put the library.
const FOLDERS: &[&str] = &[
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/aarch64-linux-gnu",
    "usr/lib64",
    "usr/local/nvidia/lib64",
    "usr/lib/wsl/lib",
];

pub(super) fn driver(around: &Surroundings) -> Finding {
    let has_device = around.root.join("dev/nvidia0").exists();
    let Some(module) = around.text("proc/driver/nvidia/version").and_then(|text| version_in(&text))
    else {
        return match has_device {
            true => {
                Finding::failing("there is /dev/nvidia0, but no driver is loaded: modprobe nvidia")
            }
            false => Finding::ok("no NVIDIA driver: --device cpu"),
        };
    };
    let major = module.split('.').next().and_then(|text| text.parse::<u32>().ok()).unwrap_or(0);
    if major < LEAST_DRIVER {
        return Finding::failing(format!(
            "the driver {module} is older than {LEAST_DRIVER}, which CUDA 13 needs"
        ));
    }
    if !has_device {
        return Finding::failing(format!(
            "the driver {module} is loaded, but there is no /dev/nvidia0: give the container its GPUs"
        ));
    }
    match library(around) {
        None => Finding::failing(format!(
            "the driver {module} is loaded, but libcuda.so is not in this system: install its libraries"
        )),
        Some(library) if library != module => Finding::failing(format!(
            "the driver {module} is loaded, but libcuda.so is of {library}: restart the machine after an upgrade"
        )),
        Some(_) => Finding::ok(format!("driver {module}")),
    }
}

/// The first word like `580.65.06`.
fn version_in(text: &str) -> Option<String> {
    let is_version =
        |word: &&str| word.contains('.') && word.split('.').all(|part| part.parse::<u32>().is_ok());
    text.split_whitespace().find(is_version).map(str::to_owned)
}

fn library(around: &Surroundings) -> Option<String> {
    let names =
        FOLDERS.iter().filter_map(|folder| std::fs::read_dir(around.root.join(folder)).ok());
    let mut names =
        names.flatten().flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names.find_map(|name| {
        let version = name.strip_prefix("libcuda.so.")?;
        version_in(version)
    })
}
