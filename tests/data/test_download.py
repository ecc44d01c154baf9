import functools
import hashlib
import http.server
import os
import threading

import pytest

from zoo_jax.core.errors import DataError
from zoo_jax.data.download import download

DATA = bytes(range(256)) * 9001
SHA256 = hashlib.sha256(DATA).hexdigest()


class Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/short.bin":  # promises more than it sends
            self.send_response(200)
            self.send_header("Content-Length", str(len(DATA)))
            self.end_headers()
            self.wfile.write(DATA[:1000])
        else:
            super().do_GET()

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "x.bin").write_bytes(DATA)
    handler = functools.partial(Handler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as http_server:
        thread = threading.Thread(target=http_server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http_server.server_port}"
        http_server.shutdown()
        thread.join()


def test_a_file_arrives_whole_with_a_progress_bar(server, tmp_path, capsys):
    to = tmp_path / "new" / "x.bin"
    assert download(f"{server}/x.bin", to, sha256=SHA256.upper()) == to
    assert to.read_bytes() == DATA
    assert os.listdir(to.parent) == ["x.bin"]
    assert "100%" in capsys.readouterr().err


def test_file_urls_work_and_progress_can_be_silent(tmp_path, capsys):
    (tmp_path / "x").write_bytes(DATA)
    url = (tmp_path / "x").as_uri()
    download(url, tmp_path / "y", sha256=SHA256, progress=False)
    assert (tmp_path / "y").read_bytes() == DATA
    assert capsys.readouterr().err == ""


def test_a_file_that_is_there_is_not_fetched_again(tmp_path):
    to = tmp_path / "x"
    to.write_bytes(DATA)
    assert download("http://127.0.0.1:9/x", to, sha256=SHA256) == to
    to.write_bytes(b"mine")
    with pytest.raises(DataError, match="there already with another content"):
        download("http://127.0.0.1:9/x", to, sha256=SHA256)
    assert to.read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("path", "sha256", "match"),
    [
        ("/x.bin", "0" * 64, f"SHA-256 {SHA256}, not 000"),
        ("/short.bin", SHA256, "gave 1000 of 2304256 bytes|IncompleteRead"),
        ("/none.bin", SHA256, "the server says 404"),
    ],
)
def test_failed_downloads_leave_nothing(server, tmp_path, path, sha256, match):
    to = tmp_path / "new" / "x.bin"
    with pytest.raises(DataError, match=match):
        download(server + path, to, sha256=sha256, progress=False)
    assert not to.parent.exists() or os.listdir(to.parent) == []


@pytest.mark.parametrize(
    ("url", "match"),
    [
        ("http://127.0.0.1:9/x", "Connection refused"),
        ("ftp://example.org/x", "only https, http and file"),
        ("no url", "only https, http and file"),
        ("file:///no/such/file", "No such file"),
    ],
)
def test_unreachable_addresses_are_one_clear_line(tmp_path, url, match):
    with pytest.raises(DataError, match=match):
        download(url, tmp_path / "x", sha256=SHA256, progress=False)
    assert os.listdir(tmp_path) == []
