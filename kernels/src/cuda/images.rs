//! The kernels as build.rs compiled them, one image a source file.

include!(concat!(env!("OUT_DIR"), "/kernel_images.rs"));
