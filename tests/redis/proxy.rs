//! A connection that can lose an answer, or hold a request back until whoever sent it has gone.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

/// What becomes of what passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Pass,
    /// The next answer is lost, and its connection with it.
    CutAnswer,
    /// Requests wait.
    Hold,
}

struct State {
    mode: Mutex<(Mode, u64)>,
    changed: Condvar,
}

/// A proxy in front of a server on this machine.
pub struct Proxy {
    pub port: u16,
    state: Arc<State>,
}

impl Proxy {
    pub fn start(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State { mode: Mutex::new((Mode::Pass, 0)), changed: Condvar::new() });
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for client in listener.incoming() {
                let Ok(client) = client else { break };
                // A server that is away closes the connection.
                let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else { continue };
                let (client_too, server_too) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let (requests, answers) = (Arc::clone(&shared), Arc::clone(&shared));
                thread::spawn(move || pass_requests(client, server, &requests));
                thread::spawn(move || pass_answers(server_too, client_too, &answers));
            }
        });
        Self { port, state }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn set(&self, mode: Mode) {
        self.state.mode.lock().unwrap().0 = mode;
        self.state.changed.notify_all();
    }

    /// How many answers the server has given.
    pub fn answers(&self) -> u64 {
        self.state.mode.lock().unwrap().1
    }

    /// Waits until the server has given more than so many answers.
    pub fn until_more_answers_than(&self, count: u64) {
        let state = self.state.mode.lock().unwrap();
        drop(self.state.changed.wait_while(state, |(_, answers)| *answers <= count).unwrap());
    }
}

fn pass_requests(mut client: TcpStream, mut server: TcpStream, state: &State) {
    let mut bytes = [0; 64 * 1024];
    while let Ok(length @ 1..) = client.read(&mut bytes) {
        drop(state.changed.wait_while(state.mode.lock().unwrap(), |(mode, _)| *mode == Mode::Hold).unwrap());
        if server.write_all(&bytes[..length]).is_err() {
            break;
        }
    }
    let _ = server.shutdown(Shutdown::Write);
}

fn pass_answers(mut server: TcpStream, mut client: TcpStream, state: &State) {
    let mut bytes = [0; 64 * 1024];
    while let Ok(length @ 1..) = server.read(&mut bytes) {
        let is_cut = {
            let mut state = state.mode.lock().unwrap();
            state.1 += 1;
            let is_cut = state.0 == Mode::CutAnswer;
            if is_cut {
                state.0 = Mode::Pass;
            }
            is_cut
        };
        state.changed.notify_all();
        if is_cut {
            break;
        }
        // A client that has gone still has its request answered.
        let _ = client.write_all(&bytes[..length]);
    }
    let _ = client.shutdown(Shutdown::Both);
    let _ = server.shutdown(Shutdown::Both);
}
