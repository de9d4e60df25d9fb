//! A real HTTP server that answers with the address of its client: Python's, or busybox httpd with a CGI script.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::command;

const PYTHON: &str = r#"
import http.server, socket, sys
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = self.client_address[0].encode() + b"\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    request_queue_size = 64
    def server_bind(self):
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = "netd", int(sys.argv[1])
Server(("::" if socket.has_dualstack_ipv6() else "0.0.0.0", int(sys.argv[1])), Answer).serve_forever()
"#;

const CGI: &str = "#!/bin/sh\nprintf 'Content-Type: text/plain\\r\\n\\r\\n%s\\n' \"$REMOTE_ADDR\"\n";

/// The server there is on this machine.
#[derive(Debug, Clone)]
pub enum Program {
    /// Python 3.
    Python(PathBuf),
    /// busybox with its httpd.
    Busybox(PathBuf),
}

/// Finds a server program; the distribution's Python before any other, because it starts fastest.
pub fn program() -> Option<Program> {
    let system = Some(PathBuf::from("/usr/bin/python3")).filter(|path| command::is_program(path));
    let python = system.or_else(|| command::find("python3", &[]));
    python.map(Program::Python).or_else(|| command::find("busybox", &[]).map(Program::Busybox))
}

impl Program {
    /// The command line that serves on `port`, with its files in `dir`.
    pub fn command_line(&self, dir: &Path, port: u16) -> Result<Vec<String>> {
        fs::create_dir_all(dir).context("create the server's directory")?;
        let text = |path: &Path| path.to_string_lossy().into_owned();
        match self {
            Self::Python(python) => {
                let script = dir.join("server.py");
                fs::write(&script, PYTHON).context("write the server's script")?;
                Ok(vec![text(python), "-S".into(), text(&script), port.to_string()])
            }
            Self::Busybox(busybox) => {
                let script = dir.join("cgi-bin/index.cgi");
                fs::create_dir_all(dir.join("cgi-bin")).context("create the scripts' directory")?;
                fs::write(&script, CGI).context("write the server's script")?;
                fs::set_permissions(&script, fs::Permissions::from_mode(0o755))
                    .context("make it executable")?;
                let words = ["httpd", "-f", "-p", &port.to_string(), "-h", &text(dir)].map(str::to_owned);
                Ok(std::iter::once(text(busybox)).chain(words).collect())
            }
        }
    }

    /// Its name, for reading.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Python(_) => "Python's http.server",
            Self::Busybox(_) => "busybox httpd",
        }
    }
}
