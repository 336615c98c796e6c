//! The program quire-bench itself: what it ends with, on a full disk, and on terminals that can do nothing.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

const BENCH: &str = env!("CARGO_BIN_EXE_quire-bench");
const FLAGS: [&str; 6] = ["--concurrency", "2", "--requests", "6", "--max-tokens", "4"];

/// A server that answers with what no terminal should be told.
struct Mock {
    process: Child,
    url: String,
}

impl Mock {
    fn start() -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_mock_server"))
            .args(["--listen", "127.0.0.1:0", "--first", "1", "--gap", "0"])
            .args(["--text", "\u{1b}[2J\u{7}<script>alert(1)</script>"])
            .args(["--fault", "garbage", "--fault-every", "3"])
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut line = String::new();
        BufReader::new(process.stderr.take().expect("it is piped"))
            .read_line(&mut line)
            .expect("a line");
        let address = line.trim().rsplit(' ').next().expect("an address");
        Self { process, url: format!("http://{address}") }
    }
}

impl Drop for Mock {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn folder(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("quire-bench-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&path).expect("a folder");
    path
}

fn is_harmless(text: &str) -> bool {
    text.chars().all(|c| !c.is_control() || c == '\n')
}

#[test]
fn a_full_disk_costs_one_report_and_not_the_other() {
    let (mock, folder) = (Mock::start(), folder("full"));
    let kept = folder.join("kept.json");
    let Output { status, stdout, stderr } = Command::new(BENCH)
        .args(["--base-url", &mock.url, "--allow-late", "--html", "/dev/full", "--json"])
        .arg(&kept)
        .args(FLAGS)
        .output()
        .expect("it runs");
    let (shown, told) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert_eq!(status.code(), Some(1), "{told}");
    for words in ["cannot write /dev/full", "No space left"] {
        assert!(told.contains(words), "{told}");
    }
    assert!(shown.contains("garbage") && is_harmless(&shown), "{shown}");
    assert!(std::fs::read_to_string(kept).expect("it is there").ends_with("}\n"));
    std::fs::remove_dir_all(folder).expect("it is there");
}

/// A terminal of no columns that knows no colours: `script` gives one where its own input is none.
#[test]
fn a_terminal_without_width_or_colour_is_enough() {
    if !Path::new("/usr/bin/script").exists() {
        eprintln!("NOT RUN: script (bsdutils) is not there");
        return;
    }
    let mock = Mock::start();
    let command = format!("{BENCH} --base-url {} --allow-late {}", mock.url, FLAGS.join(" "));
    let Output { status, stdout, .. } = Command::new("/usr/bin/script")
        .args(["--quiet", "--return", "--command", &command, "/dev/null"])
        .env("TERM", "dumb")
        .env("NO_COLOR", "1")
        .env_remove("COLUMNS")
        .stdin(Stdio::null())
        .output()
        .expect("it runs");
    let shown = String::from_utf8_lossy(&stdout).replace("\r\n", "\n");
    assert_eq!(status.code(), Some(0), "{shown}");
    assert!(shown.contains("| 2 users |") && shown.contains("requests failed"), "{shown}");
    // Neither colours nor what the server said.
    assert!(!shown.contains("\u{1b}[3") && !shown.contains("\u{1b}[2J"), "{shown:?}");
    assert!(!shown.contains('\u{7}'), "{shown:?}");
}
