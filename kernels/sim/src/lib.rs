//! Finds the stand-in CUDA libraries for tests, and says how adversarial their runs are.
//!
//! In a test's own process: `load()` before the first CUDA call; the loader then finds these libraries under the names
//! that programs ask for. For a process of its own: `library_folder()` in front of `LD_LIBRARY_PATH`.
#![allow(unsafe_code, reason = "shared libraries are loaded and called here")]

pub mod mutants;

use std::ffi::{CStr, c_char};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use libloading::Library;
use parking_lot::{Mutex, MutexGuard};

/// In which order the threads of a kernel run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Forward,
    Reverse,
    /// By this seed; threads are also taken off before they must wait.
    Random(u64),
}

/// When asynchronous copies and matrix products take effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asynchrony {
    /// At the wait that the kernel needs for them.
    Lazy,
    /// At once.
    Eager,
}

/// One way to run kernels that the programming model allows.
pub type Schedule = (Order, Asynchrony);

/// Four orders, each lazy and eager.
pub const SCHEDULES: [Schedule; 8] = [
    (Order::Forward, Asynchrony::Lazy),
    (Order::Forward, Asynchrony::Eager),
    (Order::Reverse, Asynchrony::Lazy),
    (Order::Reverse, Asynchrony::Eager),
    (Order::Random(11), Asynchrony::Lazy),
    (Order::Random(11), Asynchrony::Eager),
    (Order::Random(4242), Asynchrony::Lazy),
    (Order::Random(4242), Asynchrony::Eager),
];

/// Where the stand-in libraries lie. Panics with what to do when they could not be built.
pub fn library_folder() -> PathBuf {
    let error = env!("QUIRE_SIM_ERROR");
    assert!(error.is_empty(), "the CUDA emulator was not built: {error}");
    PathBuf::from(env!("QUIRE_SIM_FOLDER"))
}

/// What a folder of stand-ins holds.
pub(crate) const LIBRARIES_OF_FOLDER: [&str; 3] = ["libcuda.so", "libcublasLt.so", "libnccl.so"];

/// The emulator in this process; launches of one test at a time.
pub struct Emulator {
    driver: &'static Library,
    nccl: &'static Library,
    _turn: MutexGuard<'static, ()>,
}

/// Loads the stand-in libraries into this process, and waits until no other test of it uses them.
pub fn load() -> Emulator {
    load_from(&library_folder())
}

/// As `load`, of libraries that `mutants::build` made. The first call of a process decides for all.
pub fn load_from(folder: &Path) -> Emulator {
    static LIBRARIES: OnceLock<[Library; 3]> = OnceLock::new();
    static TURN: Mutex<()> = Mutex::new(());
    let libraries =
        LIBRARIES.get_or_init(|| LIBRARIES_OF_FOLDER.map(|name| open(&folder.join(name))));
    let [driver, _, nccl] = libraries;
    let emulator = Emulator { driver, nccl, _turn: TURN.lock() };
    emulator.run_as(SCHEDULES[0]);
    emulator.plug_in(0);
    emulator.connect(true);
    emulator.run_streams(None);
    emulator.plant_in_recordings(c"");
    emulator
}

fn open(path: &Path) -> Library {
    // SAFETY: the library was built from this repository; its initialisers only fill tables.
    let library = unsafe { Library::new(path) };
    library.unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

impl Emulator {
    /// How the launches that follow run. Faults of earlier launches are forgotten.
    pub fn run_as(&self, (order, asynchrony): Schedule) {
        let (order, seed) = match order {
            Order::Forward => (0, 1),
            Order::Reverse => (1, 1),
            Order::Random(seed) => (2, seed),
        };
        let is_lazy = i32::from(asynchrony == Asynchrony::Lazy);
        // SAFETY: the signature of the function in driver/devices.cpp.
        unsafe {
            let configure =
                self.driver.get::<unsafe extern "C" fn(i32, u64, i32)>(b"quire_sim_configure");
            configure.expect("the stand-in driver exports it")(order, seed, is_lazy);
        }
    }

    /// Whether streams run their work at once, or when something waits for it; `None`: as the environment says.
    pub fn run_streams(&self, asynchrony: Option<Asynchrony>) {
        let is_eager = asynchrony.map_or(-1, |a| i32::from(a == Asynchrony::Eager));
        // SAFETY: the signature of the function in driver/streams.cpp.
        unsafe {
            let set = self.driver.get::<unsafe extern "C" fn(i32)>(b"quire_sim_run_streams");
            set.expect("the stand-in driver exports it")(is_eager);
        }
    }

    /// How many GPUs there are from now on; 0: as the environment says.
    pub fn plug_in(&self, devices: i32) {
        // SAFETY: the signature of the function in driver/devices.cpp.
        unsafe {
            let set = self.driver.get::<unsafe extern "C" fn(i32)>(b"quire_sim_plug_in");
            set.expect("the stand-in driver exports it")(devices);
        }
    }

    /// Whether GPUs that are opened from now on reach each other's memory.
    pub fn connect(&self, connected: bool) {
        // SAFETY: the signature of the function in driver/devices.cpp.
        unsafe {
            let set = self.driver.get::<unsafe extern "C" fn(i32)>(b"quire_sim_connect");
            set.expect("the stand-in driver exports it")(i32::from(connected));
        }
    }

    /// Sums over ranks that NCCL was asked for in this process; one that is replayed counts when it is recorded.
    pub fn num_sums(&self) -> u64 {
        // SAFETY: the signature of the counter in driver/nccl.cpp.
        unsafe {
            let count = self.nccl.get::<unsafe extern "C" fn() -> i64>(b"quire_sim_sums");
            count.expect("the stand-in for NCCL exports it")() as u64
        }
    }

    /// Kernels that have run in this process.
    pub fn num_launches(&self) -> u64 {
        self.count(b"quire_sim_launches")
    }

    /// Launches in this process whose blocks may wait for each other; one that is replayed counts when it is recorded.
    pub fn num_launches_together(&self) -> u64 {
        self.count(b"quire_sim_launches_together")
    }

    /// Names of the kernels that have not run in this process.
    pub fn kernels_without_launch(&self) -> Vec<String> {
        // SAFETY: the signature of the function in driver/kernels.cpp, whose names live as long as the library.
        unsafe {
            type Next = unsafe extern "C" fn(*mut usize) -> *const c_char;
            let next = self.driver.get::<Next>(b"quire_sim_has_not_run");
            let next = next.expect("the stand-in driver exports it");
            let mut index = 0;
            std::iter::from_fn(|| {
                let name = next(&raw mut index);
                (!name.is_null()).then(|| CStr::from_ptr(name).to_string_lossy().into_owned())
            })
            .collect()
        }
    }

    /// Matrix products that cuBLASLt was asked for in this process; one that is replayed counts when it is recorded.
    pub fn num_products(&self) -> u64 {
        self.count(b"quire_sim_products")
    }

    /// Graphs that were launched in this process.
    pub fn num_replays(&self) -> u64 {
        self.count(b"quire_sim_replays")
    }

    /// How many of them had been launched and had not run, at most since the last call.
    pub fn most_replays_waiting(&self) -> u64 {
        self.count(b"quire_sim_most_replays_waiting")
    }

    /// Plants a bug in launches that are recorded into graphs from now on: `<beginning of kernels' names>:<what>`, or
    /// nothing.
    pub fn plant_in_recordings(&self, text: &CStr) {
        // SAFETY: the signature of the function in driver/kernels.cpp, which copies the text.
        unsafe {
            let plant = self
                .driver
                .get::<unsafe extern "C" fn(*const c_char)>(b"quire_sim_plant_in_recordings");
            plant.expect("the stand-in driver exports it")(text.as_ptr());
        }
    }

    /// For benches: only kernels whose names begin so run from now on, and no matrix product; nothing: all.
    pub fn run_only(&self, beginning: &CStr) {
        // SAFETY: the signature of the function in driver/kernels.cpp, which copies the text.
        unsafe {
            let set = self.driver.get::<unsafe extern "C" fn(*const c_char)>(b"quire_sim_run_only");
            set.expect("the stand-in driver exports it")(beginning.as_ptr());
        }
    }

    /// Nanoseconds of processor time that streams have taken in this process.
    pub fn device_nanoseconds(&self) -> u64 {
        self.count(b"quire_sim_device_nanoseconds")
    }

    fn count(&self, name: &[u8]) -> u64 {
        // SAFETY: the signature of the counters in driver/.
        unsafe {
            let count = self.driver.get::<unsafe extern "C" fn() -> i64>(name);
            count.expect("the stand-in driver exports it")() as u64
        }
    }
}
