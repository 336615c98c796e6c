//! How far a download is: a bar on a terminal, a line every tenth elsewhere.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressStyle};
use quire_engine::plan::human_bytes;
use quire_server::pull::{HubFile, Step};

const TEMPLATE: &str = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";

/// Of the file that is downloaded now.
#[derive(Default)]
pub(crate) struct Progress {
    name: String,
    bar: Option<ProgressBar>,
    size: Option<u64>,
    /// Tenths that have been printed.
    num_tenths: u64,
}

impl Progress {
    pub(crate) fn take(&mut self, file: &HubFile, step: Step) {
        match step {
            Step::Here => eprintln!("{} is here already", file.path),
            Step::Started { len, size } => {
                if self.name != file.path {
                    *self = Self::new(&file.path);
                }
                self.start(len, size);
            }
            Step::Has { len, .. } => self.advance(len),
            Step::Verifying => self.finish(),
        }
    }

    fn new(name: &str) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template(TEMPLATE).expect("the template is constant");
            ProgressBar::no_length().with_style(style).with_message(name.to_owned())
        });
        Self { name: name.to_owned(), bar, size: None, num_tenths: 0 }
    }

    /// A connection is open and `len` of `size` bytes are here.
    fn start(&mut self, len: u64, size: Option<u64>) {
        self.size = size;
        self.num_tenths = size.map_or(0, |size| len * 10 / size.max(1));
        if let Some(bar) = &self.bar {
            bar.update(|state| size.into_iter().for_each(|size| state.set_len(size)));
            bar.set_position(len);
            bar.reset_eta();
        } else if len > 0 {
            eprintln!("{}: resumed at {}", self.name, human_bytes(len));
        } else {
            let of = size.map_or("an unknown size".to_owned(), human_bytes);
            eprintln!("{}: {of} to download", self.name);
        }
    }

    /// `len` bytes are here.
    fn advance(&mut self, len: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(len);
            return;
        }
        let Some(size) = self.size else { return };
        let tenths = len * 10 / size.max(1);
        if tenths > self.num_tenths {
            self.num_tenths = tenths;
            eprintln!("{}: {}% of {}", self.name, tenths * 10, human_bytes(size));
        }
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish();
        }
    }
}
