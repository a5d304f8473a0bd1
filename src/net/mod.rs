//! Sockets, below DNS: how they are opened, batched system calls, steering between instances, limits of the process.
//!
//! The one folder with `unsafe`: what tokio and socket2 do not have.
#![allow(unsafe_code)]

pub mod batch;
pub mod claim;
pub mod connected;
pub mod meeting;
pub mod network;
pub mod open;
pub mod process;
pub mod scheduling;
pub mod steering;
pub mod watched;

#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::RawFd;
use std::ptr;

/// `size_of` as the C interfaces want it.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the structures passed to the kernel are small"
)]
const fn len_of<T>() -> libc::socklen_t {
    size_of::<T>() as libc::socklen_t
}

fn set_option(fd: RawFd, level: i32, name: i32) -> io::Result<()> {
    let on: libc::c_int = 1;
    set_value(fd, level, name, &on)
}

fn set_value<T>(fd: RawFd, level: i32, name: i32, value: &T) -> io::Result<()> {
    // SAFETY: the pointer and the length are those of a value that lives through the call, which only reads it. The
    // options used here take an `int` or a `sock_fprog`, whose instructions live as long as the caller's value.
    let result =
        unsafe { libc::setsockopt(fd, level, name, ptr::from_ref(value).cast(), len_of::<T>()) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
