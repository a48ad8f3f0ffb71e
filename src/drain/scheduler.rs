//! How a drain waits: for a time to come, and for work that blocks.

use std::future::Future;
use std::time::Duration;

use crate::journal::platform::{Platform, System};

/// A machine on which a drain's futures run.
pub trait Scheduler: Platform {
    /// Ends once so much time has passed.
    fn sleep(&self, time: Duration) -> impl Future<Output = ()> + Send;

    /// Does work that blocks without keeping others waiting; `None` if it was cancelled.
    fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = Option<T>> + Send;
}

impl Scheduler for System {
    fn sleep(&self, time: Duration) -> impl Future<Output = ()> + Send {
        tokio::time::sleep(time)
    }

    fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = Option<T>> + Send {
        let task = tokio::task::spawn_blocking(work);
        async { task.await.ok() }
    }
}
