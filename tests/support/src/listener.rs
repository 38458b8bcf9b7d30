//! A monitor's client that waits for events among the answers.
#![forbid(unsafe_code)]

use crate::qmp::Client;
use crate::server::Server;

/// A client that remembers events.
#[derive(Debug)]
pub struct Listener {
    client: Client,
    heard: Vec<String>,
}

impl Listener {
    pub fn new(server: &Server) -> Listener {
        Listener {
            client: server.client(),
            heard: Vec::new(),
        }
    }

    /// The answer.
    pub fn ask(&mut self, command: &str, arguments: &str) -> String {
        let request = format!(r#"{{"execute":"{command}","arguments":{{{arguments}}}}}"#);
        self.client.send(request.as_bytes());
        loop {
            let line = self.client.line();
            match line.contains(r#""event": "#) {
                true => self.heard.push(line),
                false => return line,
            }
        }
    }

    #[track_caller]
    pub fn done(&mut self, command: &str, arguments: &str) {
        assert_eq!(self.ask(command, arguments), r#"{"return": {}}"#);
    }

    /// The next event.
    pub fn next_event(&mut self) -> String {
        match self.heard.is_empty() {
            true => self.client.line(),
            false => self.heard.remove(0),
        }
    }

    /// How many events nobody has asked for.
    pub fn unheard(&self) -> usize {
        self.heard.len()
    }

    /// Waits until an event has this text in it, and forgets all up to it. Returns it.
    pub fn wait(&mut self, text: &str) -> String {
        loop {
            if let Some(index) = self.heard.iter().position(|line| line.contains(text)) {
                return self.heard.drain(..=index).next_back().unwrap();
            }
            let line = self.client.line();
            assert_ne!(line, "", "no '{text}' among {:?}", self.heard);
            self.heard.push(line);
        }
    }

    pub fn status(&mut self, status: &str) {
        self.wait(&format!(r#""status": "{status}""#));
    }
}
