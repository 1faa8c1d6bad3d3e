//! Why io_uring is not to be had on this host, in words an operator can act on. Knows errno and one sysctl, no ring.

use std::io;

use thiserror::Error;

/// Why io_uring cannot be used here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Unavailable {
    #[error("this kernel has no io_uring, or a seccomp profile hides it (ENOSYS)")]
    NoSuchCall,
    #[error("io_uring is switched off by kernel.io_uring_disabled = {0} (EPERM)")]
    Disabled(u8),
    #[error("io_uring is forbidden, most likely by a container's seccomp profile (EPERM)")]
    Forbidden,
    #[error("io_uring is forbidden by a security module (EACCES)")]
    Denied,
    #[error("no memory for io_uring: raise RLIMIT_MEMLOCK or the memory limit (ENOMEM)")]
    Memory,
    #[error("no file descriptor left for io_uring (EMFILE, ENFILE)")]
    FileDescriptors,
    #[error("this kernel's io_uring is too old: 6.1 or later is needed (EINVAL)")]
    TooOld,
    #[error("io_uring: {}", io::Error::from_raw_os_error(*.0))]
    Other(i32),
}

impl Unavailable {
    /// Names what io_uring_setup answered. `disabled` is the value of kernel.io_uring_disabled, where that can be read.
    pub fn from_errno(errno: i32, disabled: Option<u8>) -> Unavailable {
        match (errno, disabled) {
            (libc::ENOSYS, _) => Unavailable::NoSuchCall,
            (libc::EPERM, Some(level @ 1..)) => Unavailable::Disabled(level),
            (libc::EPERM, _) => Unavailable::Forbidden,
            (libc::EACCES, _) => Unavailable::Denied,
            (libc::ENOMEM, _) => Unavailable::Memory,
            (libc::EMFILE | libc::ENFILE, _) => Unavailable::FileDescriptors,
            (libc::EINVAL, _) => Unavailable::TooOld,
            (other, _) => Unavailable::Other(other),
        }
    }

    pub(super) fn from_setup(error: &io::Error) -> Unavailable {
        let disabled = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled")
            .ok()
            .and_then(|text| text.trim().parse().ok());
        Unavailable::from_errno(error.raw_os_error().unwrap_or_default(), disabled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_its_name() {
        for (errno, disabled, expected) in [
            (libc::ENOSYS, None, Unavailable::NoSuchCall),
            (libc::EPERM, Some(0), Unavailable::Forbidden),
            (libc::EPERM, None, Unavailable::Forbidden),
            (libc::EPERM, Some(2), Unavailable::Disabled(2)),
            (libc::EACCES, None, Unavailable::Denied),
            (libc::ENOMEM, Some(0), Unavailable::Memory),
            (libc::EMFILE, None, Unavailable::FileDescriptors),
            (libc::EINVAL, Some(0), Unavailable::TooOld),
            (libc::EIO, None, Unavailable::Other(libc::EIO)),
        ] {
            assert_eq!(Unavailable::from_errno(errno, disabled), expected);
        }
    }
}
