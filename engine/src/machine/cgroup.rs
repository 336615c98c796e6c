//! What the cgroups of this process allow it: of both versions, wherever a limit is set between the process and the top.
//!
//! `/proc/self/cgroup` and the files are those of cgroups(7), and of the kernel's `admin-guide/cgroup-v2.rst` and `cgroup-v1/memory.rst`.

use std::fs;
use std::path::{Component, Path, PathBuf};

/// Version 1 writes "no limit" as a number near 2^63.
const NO_LIMIT: u64 = 1 << 62;

/// Bytes that one cgroup may have, and that its processes have now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CgroupMemory {
    pub limit: u64,
    /// Without the pages of files that the kernel takes back first.
    pub used: u64,
}

impl CgroupMemory {
    /// Every limit that holds for this process; `root`: `/`, but for tests.
    pub fn of_process(root: &Path) -> Vec<Self> {
        let unified = folders(root, "").into_iter().filter_map(|folder| {
            let files = ["memory.max", "memory.current", "inactive_file"];
            Self::read(&folder, files)
        });
        let first = folders(root, "memory").into_iter().filter_map(|folder| {
            let files = ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"];
            Self::read(&folder, files)
        });
        unified.chain(first).collect()
    }

    /// Bytes that are left.
    pub fn free(&self) -> u64 {
        self.limit.saturating_sub(self.used)
    }

    fn read(folder: &Path, [limit, usage, inactive]: [&str; 3]) -> Option<Self> {
        let number = |text: &str| text.trim().parse::<u64>().ok();
        let file = |name: &str| fs::read_to_string(folder.join(name)).ok();
        let limit = number(&file(limit)?).filter(|&limit| limit < NO_LIMIT)?;
        let usage = file(usage).and_then(|text| number(&text)).unwrap_or(0);
        let stat = file("memory.stat").unwrap_or_default();
        let inactive = stat.lines().find_map(|line| number(line.strip_prefix(inactive)?));
        Some(Self { limit, used: usage.saturating_sub(inactive.unwrap_or(0)) })
    }
}

/// The least quota of processors, in processors, of the cgroups of this process; `root`: `/`, but for tests.
pub fn cgroup_processors(root: &Path) -> Option<f64> {
    let file = |folder: &Path, name: &str| fs::read_to_string(folder.join(name)).ok();
    let ratio = |quota: &str, period: &str| {
        let (quota, period): (f64, f64) = (quota.trim().parse().ok()?, period.trim().parse().ok()?);
        // Version 1 writes "no quota" as -1.
        (quota > 0.0 && period > 0.0).then_some(quota / period)
    };
    let unified = folders(root, "").into_iter().filter_map(|folder| {
        let text = file(&folder, "cpu.max")?;
        let (quota, period) = text.trim().split_once(' ')?;
        ratio(quota, period)
    });
    let first = folders(root, "cpu").into_iter().filter_map(|folder| {
        ratio(&file(&folder, "cpu.cfs_quota_us")?, &file(&folder, "cpu.cfs_period_us")?)
    });
    unified.chain(first).min_by(f64::total_cmp)
}

/// The folder of this process's cgroup and those above it; `controller`: of version 1, or "" for version 2.
///
/// A container without a namespace of its own is told its path on the host, but has its own folder mounted at the top: folders that
/// are not there are passed over on the way up to it.
fn folders(root: &Path, controller: &str) -> Vec<PathBuf> {
    let own = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let path = own.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        controllers.split(',').any(|own| own == controller).then_some(path)
    });
    let base = root.join("sys/fs/cgroup").join(controller);
    let path = Path::new(path.unwrap_or_default());
    // Outside of its namespace a process has a path that begins with `..`; nothing above the top can be read.
    let names = path.components().filter(|part| matches!(part, Component::Normal(_)));
    let own: PathBuf = names.collect();
    own.ancestors().map(|above| base.join(above)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    /// A machine of a few files, which are removed at the end.
    struct Root(PathBuf);

    impl Root {
        fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let root = Self(std::env::temp_dir().join(format!(
                "quire-{}-{name}-{}",
                module_path!().replace("::", "-"),
                std::process::id()
            )));
            for (path, text) in files {
                let path = root.0.join(path);
                fs::create_dir_all(path.parent().expect("a file has a folder")).expect("a folder");
                fs::write(path, text).expect("a file");
            }
            root
        }

        fn limits(&self) -> Vec<(u64, u64)> {
            let all = CgroupMemory::of_process(&self.0);
            all.iter().map(|memory| (memory.limit, memory.used)).collect()
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    #[test]
    fn limits_hold_wherever_they_are_set() {
        let root = Root::new(
            "unified",
            &[
                ("proc/self/cgroup", "0::/kubepods/pod1/main\n"),
                ("sys/fs/cgroup/kubepods/pod1/main/memory.max", "max\n"),
                ("sys/fs/cgroup/kubepods/pod1/memory.max", "2147483648\n"),
                ("sys/fs/cgroup/kubepods/pod1/memory.current", "1073741824\n"),
                (
                    "sys/fs/cgroup/kubepods/pod1/memory.stat",
                    "anon 5\nactive_file 7\ninactive_file 24\n",
                ),
                ("sys/fs/cgroup/kubepods/memory.max", "4294967296\n"),
                ("sys/fs/cgroup/kubepods/pod1/cpu.max", "150000 100000\n"),
                ("sys/fs/cgroup/kubepods/cpu.max", "max 100000\n"),
            ],
        );
        assert_eq!(root.limits(), [(2 * GIB, GIB - 24), (4 * GIB, 0)]);
        let free = CgroupMemory::of_process(&root.0).iter().map(CgroupMemory::free).min();
        assert_eq!(free, Some(GIB + 24));
        assert_eq!(cgroup_processors(&root.0), Some(1.5));
    }

    #[test]
    fn the_first_version_is_read_too() {
        let root = Root::new(
            "first",
            &[
                ("proc/self/cgroup", "4:cpu,cpuacct:/a\n3:name=systemd:/x\n2:memory:/a/b\n0::/\n"),
                ("sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "1073741824"),
                ("sys/fs/cgroup/memory/a/b/memory.usage_in_bytes", "1024"),
                ("sys/fs/cgroup/memory/a/b/memory.stat", "inactive_file 1\ntotal_inactive_file 24"),
                ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712"),
                ("sys/fs/cgroup/cpu/a/cpu.cfs_quota_us", "50000"),
                ("sys/fs/cgroup/cpu/a/cpu.cfs_period_us", "100000"),
                ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1"),
                ("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000"),
            ],
        );
        assert_eq!(root.limits(), [(GIB, 1000)]);
        assert_eq!(cgroup_processors(&root.0), Some(0.5));
    }

    #[test]
    fn a_container_that_sees_the_hosts_path_finds_its_own_folder_at_the_top() {
        let files = [
            ("proc/self/cgroup", "0::/../../system.slice/docker-1.scope\n"),
            ("sys/fs/cgroup/memory.max", "1073741824"),
        ];
        assert_eq!(Root::new("host-path", &files).limits(), [(GIB, 0)]);
        // What is above the top is none of its business.
        assert_eq!(Root::new("nothing", &[("memory.max", "1"), files[0]]).limits(), []);
        assert_eq!(Root::new("empty", &[]).limits(), []);
    }
}
