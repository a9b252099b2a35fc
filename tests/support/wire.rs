//! What lies between two servers, and can be cut.

use std::{
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::free_port;

/// A port of this machine that leads to another one, as long as the wire is whole.
#[derive(Clone)]
pub struct Wire {
    /// The near end.
    pub port: u16,
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    is_cut: AtomicBool,
    connections: Mutex<Vec<TcpStream>>,
}

impl Wire {
    /// A whole wire to a port.
    pub fn to(far: u16) -> Self {
        let wire = Self { port: free_port(), inner: Arc::default() };
        let listener = TcpListener::bind(("127.0.0.1", wire.port)).unwrap();
        let inner = Arc::clone(&wire.inner);
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                // Below this is looked at again, for it may be cut meanwhile; until then nothing may get through.
                if inner.is_cut.load(Ordering::SeqCst) {
                    continue;
                }
                let Ok(far) = TcpStream::connect(("127.0.0.1", far)) else { continue };
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    std::thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Both);
                    });
                }
                let mut connections = inner.connections.lock().unwrap();
                connections.push(near);
                if inner.is_cut.load(Ordering::SeqCst) {
                    end(&mut connections);
                }
            }
        });
        wire
    }

    /// Ends all that goes through it, and lets nothing through from here on.
    pub fn cut(&self) {
        self.inner.is_cut.store(true, Ordering::SeqCst);
        end(&mut self.inner.connections.lock().unwrap());
    }

    /// Makes it whole again.
    pub fn mend(&self) {
        self.inner.is_cut.store(false, Ordering::SeqCst);
    }
}

fn end(connections: &mut Vec<TcpStream>) {
    for connection in connections.drain(..) {
        let _ = connection.shutdown(Shutdown::Both);
    }
}
