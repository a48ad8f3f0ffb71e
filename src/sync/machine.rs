//! The things themselves.

pub use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering, fence};
pub use std::sync::{OnceLock, RwLock, RwLockReadGuard, RwLockWriteGuard};
pub use std::thread::{Thread, current, park_timeout};

pub use atomic_waker::AtomicWaker;
pub use rtrb::{Consumer, Producer, RingBuffer};
pub use tokio::sync::Notify;
