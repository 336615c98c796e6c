//! Each fault is planted, and its check says so.

use std::net::TcpListener;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use quire_server::store::{Layer, Manifest, Store};

use super::{CHECKS, Finding, Status, Surroundings};

/// A root of its own with files, gone when the test is.
struct Root(PathBuf);

impl Root {
    fn new(test: &str, files: &[(&str, &str)]) -> Self {
        let root =
            Self(std::env::temp_dir().join(format!("quire-doctor-{test}-{}", std::process::id())));
        std::fs::create_dir_all(root.0.join("models"))
            .expect("the folder for tests can be written");
        files.iter().for_each(|(path, text)| root.write(path, text));
        root
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.join(path);
        let folder = path.parent().expect("a file lies in a folder");
        std::fs::create_dir_all(folder).expect("the folder for tests can be written");
        std::fs::write(path, text).expect("the folder for tests can be written");
    }

    fn around(&self) -> Surroundings {
        Surroundings {
            root: self.0.clone(),
            models_dir: self.0.join("models"),
            stores: Vec::new(),
            plan: Some(Ok((8 << 30, 4))),
            listens: Vec::new(),
            max_connections: 4096,
            reads_all: true,
            now: SystemTime::now(),
        }
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn check(around: &Surroundings, name: &str) -> Finding {
    let (_, check) =
        CHECKS.iter().find(|(own, _)| *own == name).expect("the check is in the table");
    check(around)
}

#[track_caller]
fn assert_found(around: &Surroundings, name: &str, status: Status, word: &str) {
    let found = check(around, name);
    assert_eq!(found.status, status, "{name}: {}", found.message);
    assert!(found.message.contains(word), "{name}: {}", found.message);
}

#[test]
fn an_empty_machine_has_no_complaints() {
    let root = Root::new("empty", &[]);
    let findings = root.around().examine();
    // The disk is that of the tests.
    for (name, finding) in findings.into_iter().filter(|(name, _)| *name != "disk") {
        assert_eq!(finding.status, Status::Ok, "{name}: {}", finding.message);
    }
}

#[test]
fn a_cgroup_smaller_than_the_plan_is_found_wherever_it_is_set() {
    let root = Root::new("cgroup", &[("proc/meminfo", "MemTotal: 64000000 kB\n")]);
    assert_found(&root.around(), "memory", Status::Ok, "8.0 GiB");
    root.write("proc/self/cgroup", "0::/kubepods/pod1/main\n");
    root.write("sys/fs/cgroup/kubepods/pod1/main/memory.max", "max\n");
    assert_found(&root.around(), "memory", Status::Ok, "allowed");
    root.write(
        "sys/fs/cgroup/kubepods/pod1/memory.max",
        &format!("{}\n", (8_u64 << 30) + (1 << 20)),
    );
    assert_found(&root.around(), "memory", Status::Warning, "left for all else");
    root.write("sys/fs/cgroup/kubepods/memory.max", "4294967296\n");
    assert_found(&root.around(), "memory", Status::Failing, "--kv-cache-memory");
    // Version 1.
    let root = Root::new("cgroup1", &[("proc/self/cgroup", "9:memory:/slice\n")]);
    root.write("sys/fs/cgroup/memory/slice/memory.limit_in_bytes", "1073741824");
    root.write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712");
    assert_found(&root.around(), "memory", Status::Failing, "1.0 GiB");
}

#[test]
fn a_quota_of_processors_below_the_threads_is_found() {
    let root = Root::new("quota", &[("sys/fs/cgroup/cpu.max", "150000 100000\n")]);
    assert_found(&root.around(), "processors", Status::Warning, "--threads 1");
    root.write("sys/fs/cgroup/cpu.max", "max 100000\n");
    assert_found(&root.around(), "processors", Status::Ok, "4 threads");
}

#[test]
fn a_changed_or_missing_blob_is_found() {
    let root = Root::new("blobs", &[]);
    let store = Store::new(root.0.join("models"));
    let digest = store.put_bytes(b"weights").expect("a blob");
    let layer = |digest: &quire_server::store::BlobDigest| Layer {
        media_type: "application/vnd.ollama.image.model".into(),
        digest: digest.clone(),
        size: 7,
    };
    let manifest = Manifest { config: layer(&digest), layers: vec![layer(&digest)] };
    store.put_manifest(&"tiny".parse().expect("a name"), &manifest).expect("a manifest");
    let mut around = root.around();
    around.stores = vec![store.clone()];
    assert_found(&around, "model_files", Status::Ok, "2 blobs");
    std::fs::write(store.blob_path(&digest), b"WEIGHTS").expect("the blob can be written");
    assert_found(&around, "model_files", Status::Failing, "has changed");
    around.reads_all = false;
    assert_found(&around, "model_files", Status::Ok, "sizes");
    std::fs::write(store.blob_path(&digest), b"weight").expect("the blob can be written");
    assert_found(&around, "model_files", Status::Failing, "6 bytes, not 7");
    std::fs::remove_file(store.blob_path(&digest)).expect("the blob is there");
    assert_found(&around, "model_files", Status::Failing, "tiny:latest");
}

#[test]
fn a_port_that_is_taken_is_found() {
    let root = Root::new("port", &[]);
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("it is bound").port();
    let mut around = root.around();
    around.listens = vec![("127.0.0.1".into(), port)];
    assert_found(&around, "ports", Status::Failing, &port.to_string());
    drop(taken);
    assert_found(&around, "ports", Status::Ok, "1 ports");
}

#[test]
fn a_disk_without_room_is_found() {
    // A file system of no blocks at all: /proc.
    let mut around = Root::new("disk", &[]).around();
    around.models_dir = "/proc/self".into();
    assert_found(&around, "disk", Status::Failing, "/proc/self");
}

#[test]
fn a_driver_whose_halves_differ_is_found() {
    let root = Root::new("gpu", &[("dev/nvidia0", "")]);
    assert_found(&root.around(), "gpu", Status::Failing, "modprobe");
    let version = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27\nGCC version: 12.2.0";
    root.write("proc/driver/nvidia/version", version);
    assert_found(&root.around(), "gpu", Status::Failing, "libcuda.so is not");
    root.write("usr/lib64/libcuda.so.1", "");
    root.write("usr/lib64/libcuda.so.575.57.08", "");
    assert_found(&root.around(), "gpu", Status::Failing, "of 575.57.08");
    std::fs::remove_file(root.0.join("usr/lib64/libcuda.so.575.57.08")).expect("it is there");
    root.write("usr/lib64/libcuda.so.580.65.06", "");
    assert_found(&root.around(), "gpu", Status::Ok, "580.65.06");
    root.write("proc/driver/nvidia/version", "NVRM version: Kernel Module 550.54.15");
    assert_found(&root.around(), "gpu", Status::Failing, "older");
}

#[test]
fn nodes_pages_files_and_clocks_are_looked_at() {
    let root = Root::new("rest", &[("sys/devices/system/node/node0/cpulist", "0-3\n")]);
    root.write("sys/devices/system/node/node1/cpulist", "4-7\n");
    root.write("proc/self/status", "Cpus_allowed_list:\t0-7\nMems_allowed_list:\t0\n");
    assert_found(&root.around(), "numa", Status::Warning, "[1]");
    root.write("proc/self/status", "Cpus_allowed_list:\t0-7\nMems_allowed_list:\t0-1\n");
    assert_found(&root.around(), "numa", Status::Ok, "2 nodes");
    let pages = "MemTotal: 1000000 kB\nHugePages_Free: 100\nHugepagesize: 2048 kB\n";
    root.write("proc/meminfo", pages);
    assert_found(&root.around(), "huge_pages", Status::Warning, "nr_hugepages");
    root.write("proc/self/limits", "Max open files            1024                 20000 files\n");
    assert_found(&root.around(), "open_files", Status::Warning, "ulimit");
    root.write("sys/devices/system/clocksource/clocksource0/current_clocksource", "hpet\n");
    assert_found(&root.around(), "clock", Status::Warning, "hpet");
    let mut around = root.around();
    around.now = SystemTime::UNIX_EPOCH + Duration::from_secs(86_400);
    assert_found(&around, "clock", Status::Failing, "before");
    around.now = SystemTime::now();
    let folder = std::fs::File::open(&around.models_dir).expect("it is there");
    folder.set_modified(around.now + Duration::from_secs(200_000)).expect("it is ours");
    assert_found(&around, "clock", Status::Warning, "ahead");
}
