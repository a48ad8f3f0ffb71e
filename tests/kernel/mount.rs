//! Small file systems on loop devices.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::io::Errno;

/// What to do where the machine does not let the tests mount anything.
pub const HOW_TO_GO_ON: &str = "these tests mount file systems, so they need root, /dev/fuse and loop devices. Run `./test` as \
                                root on a machine that allows it, or leave them out knowingly: FOREBAY_WITHOUT_MOUNTS=1 ./test";

/// The file systems that data directories are put on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Ext4,
    Xfs,
}

impl Kind {
    pub const BOTH: [Self; 2] = [Self::Ext4, Self::Xfs];

    /// The smallest size that its tools make, with room to spare.
    const fn bytes(self) -> u64 {
        match self {
            Self::Ext4 => 64 << 20,
            Self::Xfs => 320 << 20,
        }
    }
}

fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    // Debian keeps the programs of the administrator out of everybody's way.
    command.env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())).stdin(Stdio::null());
    command
}

/// Runs a program that must succeed.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = command(program).args(arguments).output().unwrap_or_else(|error| {
        panic!("{program}: {error}; install it with: apt-get install e2fsprogs xfsprogs mount")
    });
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {}\n{said}\n{HOW_TO_GO_ON}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// A file system in a file, mounted until it is dropped.
pub struct Volume {
    image: PathBuf,
    mount_point: PathBuf,
    options: &'static str,
    is_mounted: bool,
}

impl Volume {
    /// Makes an image of this kind and mounts it on a directory, which is made if it is missing.
    pub fn new(kind: Kind, image: &Path, mount_point: &Path) -> Self {
        File::create(image).unwrap().set_len(kind.bytes()).unwrap();
        let path = image.to_str().unwrap();
        match kind {
            Kind::Ext4 => run("mkfs.ext4", &["-q", "-F", "-E", "nodiscard", path]),
            Kind::Xfs => run("mkfs.xfs", &["-q", "-f", "-K", path]),
        };
        std::fs::create_dir_all(mount_point).unwrap();
        let options = match kind {
            Kind::Ext4 => "loop,errors=remount-ro",
            Kind::Xfs => "loop",
        };
        let mut mount =
            Self { image: image.to_owned(), mount_point: mount_point.to_owned(), options, is_mounted: false };
        mount.mount();
        mount
    }

    pub fn mount(&mut self) {
        let (image, mount_point) = (self.image.to_str().unwrap(), self.mount_point.to_str().unwrap());
        run("mount", &["-o", self.options, image, mount_point]);
        self.is_mounted = true;
    }

    /// Nobody may use it any more.
    pub fn unmount(&mut self) {
        run("umount", &[self.mount_point.to_str().unwrap()]);
        self.is_mounted = false;
    }

    /// Mounts it again with other options, in its place.
    pub fn remount(&self, options: &str) {
        run("mount", &["-o", &format!("remount,{options}"), self.mount_point.to_str().unwrap()]);
    }

    /// The file system stops at once, and writes nothing that it still holds; unless an error of its disk has made it stop
    /// already.
    pub fn shut_down(&self) {
        let path = self.mount_point.to_str().unwrap();
        let done = command("xfs_io").args(["-x", "-c", "shutdown", path]).output().is_ok_and(|o| o.status.success());
        let has_stopped = std::fs::metadata(path).is_err_and(|e| e.raw_os_error() == Some(Errno::IO.raw_os_error()));
        assert!(done || has_stopped, "{path} could not be shut down; install xfs_io with: apt-get install xfsprogs");
    }

    /// The loop device that it is on.
    pub fn device(&self) -> String {
        let device = run("findmnt", &["-n", "-o", "SOURCE", self.mount_point.to_str().unwrap()]);
        device.trim().to_owned()
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        if self.is_mounted {
            // Lazily, since a test that failed may have left something open.
            let _ = Command::new("umount").arg("--lazy").arg(&self.mount_point).status();
        }
    }
}
