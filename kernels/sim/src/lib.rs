//! Finds the stand-in CUDA libraries for tests, and says how adversarial their runs are.
//!
//! In a test's own process: `load()` before the first CUDA call; the loader then finds these libraries under the names
//! that programs ask for. For a process of its own: `library_folder()` in front of `LD_LIBRARY_PATH`.
#![allow(unsafe_code, reason = "shared libraries are loaded and called here")]

pub mod mutants;

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

/// The emulator in this process; launches of one test at a time.
pub struct Emulator {
    driver: &'static Library,
    _turn: MutexGuard<'static, ()>,
}

/// Loads the stand-in libraries into this process, and waits until no other test of it uses them.
pub fn load() -> Emulator {
    load_from(&library_folder())
}

/// As `load`, of libraries that `mutants::build` made. The first call of a process decides for all.
pub fn load_from(folder: &Path) -> Emulator {
    static LIBRARIES: OnceLock<[Library; 2]> = OnceLock::new();
    static TURN: Mutex<()> = Mutex::new(());
    let libraries = LIBRARIES
        .get_or_init(|| ["libcuda.so", "libcublasLt.so"].map(|name| open(&folder.join(name))));
    let emulator = Emulator { driver: &libraries[0], _turn: TURN.lock() };
    emulator.run_as(SCHEDULES[0]);
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

    /// Kernels that have run in this process.
    pub fn num_launches(&self) -> u64 {
        // SAFETY: the signature of the function in driver/kernels.cpp.
        unsafe {
            let launches = self.driver.get::<unsafe extern "C" fn() -> i64>(b"quire_sim_launches");
            launches.expect("the stand-in driver exports it")() as u64
        }
    }
}
