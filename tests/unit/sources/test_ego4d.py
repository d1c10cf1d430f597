"""The official program's manifests, what it needs, and the program itself against a local S3 server."""

import json

import pytest

from avion_core.config.sources import Ego4DSource
from avion_core.data.ego4d import narration_path, read_narrations
from avion_core.data.source_videos import SourceError
from avion_core.sources import ego4d
from avion_core.sources.source import Target
from avion_core.sources.state import SourceRecord, SourceState

NARRATIONS = {"narrations": [{"timestamp_sec": 1.0, "narration_text": "#C C a"}], "summaries": []}
VIDEOS = {"u1": {"narration_pass_1": NARRATIONS}, "u2": {"narration_pass_2": NARRATIONS}}


def test_a_manifest_promises_the_files_of_the_wanted_benchmarks(tmp_path):
    manifest = tmp_path / "manifest.csv"
    manifest.write_text(
        "video_uid,benchmarks,canonical_s3_location\nu1,[EM|FHO],s3://b/x/u1.mp4\nu2,[AV],s3://b/x/u2\n"
    )
    assert ego4d.listed_files(manifest, benchmarks=()) == ["u1.mp4", "u2.mp4"]
    assert ego4d.listed_files(manifest, benchmarks=("fho",)) == ["u1.mp4"]
    (tmp_path / "u2.mp4").touch()
    assert ego4d.missing_files(tmp_path, benchmarks=()) == ["u1.mp4"]
    manifest.write_text("file_uid,type,s3_path\nnarration,json,s3://b/annotations/narration.json\n")
    assert ego4d.listed_files(manifest, benchmarks=()) == ["narration.json"]


@pytest.fixture
def no_keys(tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))


def test_damaged_aws_profiles_are_told_and_repeated_ones_taken(no_keys, tmp_path, monkeypatch):
    monkeypatch.setattr(ego4d, "command_path", lambda: "ego4d")
    (tmp_path / "credentials").write_text("[default]\na = b\n[default]\na = c\n")
    ego4d.check_download(Ego4DSource())
    for content in (b"a = b\n", b"[default]\n\xe9 = b\n", b"[default\n"):
        (tmp_path / "config").write_bytes(content)
        with pytest.raises(SourceError, match=r"config: AWS profiles cannot be read"):
            ego4d.check_download(Ego4DSource())


def test_a_missing_program_profile_or_question_file_is_told_before_work(no_keys, tmp_path, monkeypatch):
    monkeypatch.setattr(ego4d, "command_path", lambda: "ego4d")
    with pytest.raises(SourceError, match=r"AWS profile 'default' is not configured.*aws configure"):
        ego4d.check_download(Ego4DSource())
    (tmp_path / "credentials").write_text("[default]\naws_access_key_id = a\naws_secret_access_key = b\n")
    ego4d.check_download(Ego4DSource())
    with pytest.raises(SourceError, match="EgoMCQ's file is not there"):
        ego4d.check_questions(Ego4DSource(egomcq=str(tmp_path / "none.json")))
    (tmp_path / "egomcq.json").write_text('{"0": ')
    with pytest.raises(SourceError, match=r"egomcq\.json: line 1, column 7: not valid JSON"):
        ego4d.check_questions(Ego4DSource(egomcq=str(tmp_path / "egomcq.json")))
    monkeypatch.setattr(ego4d, "command_path", lambda: None)
    with pytest.raises(SourceError, match="pip install ego4d"):
        ego4d.check_download(Ego4DSource())


def test_egovlps_file_is_checked_and_copied_beside_the_release(tmp_path):
    header = "video_uid\tnarration_time\tclip_text\ttag_verb\ttag_noun\n"
    ego4d.check_tags(Ego4DSource())
    with pytest.raises(SourceError, match=r"EgoVLP's file is not there; correct `ego4d\.egoclip`"):
        ego4d.check_tags(Ego4DSource(egoclip=str(tmp_path / "none.csv")))
    file = tmp_path / "mine.csv"
    own = Ego4DSource(egoclip=str(file))
    file.write_text(header + "u1\t1.0\t#C C a\t[1]\n")
    with pytest.raises(SourceError, match="1 of its 1 rows cannot be read"):
        ego4d.check_tags(own)
    file.write_text(header + "u1\t1.0\t#C C a\t[1]\t[]\n")
    ego4d.check_tags(own)
    assert own.recipe() == Ego4DSource().recipe()
    raw = tmp_path / "raw"
    (raw / "v2/annotations").mkdir(parents=True)
    (raw / "v2/annotations/narration.json").write_text(json.dumps({"videos": VIDEOS}))
    (raw / "ego4d.json").write_text(json.dumps({"videos": []}))
    source = ego4d.Ego4DDownload(own, Target("ego4d", raw, recipe="same"))
    source.fetch(SourceRecord(SourceState(recipe="same")))
    assert (raw / "egoclip.csv").read_text() == file.read_text()
    assert source.annotations()["egoclip.csv"] == file


def test_refused_keys_are_explained(no_keys, tmp_path, monkeypatch):
    (tmp_path / "credentials").write_text("[default]\naws_access_key_id = a\naws_secret_access_key = b\n")
    program = tmp_path / "ego4d"
    program.write_text(
        "#!/bin/sh\necho 'botocore.exceptions.ClientError: (ExpiredToken) when calling'\nexit 1\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr(ego4d, "command_path", lambda: str(program))
    with pytest.raises(SourceError, match="expire after 14 days"):
        ego4d.fetch(Ego4DSource(), tmp_path / "raw")
    program.write_text("#!/bin/sh\necho 'disk full'\nexit 3\n")
    with pytest.raises(SourceError, match=r"exit code 3.*disk full"):
        ego4d.fetch(Ego4DSource(), tmp_path / "raw")


@pytest.fixture
def s3(no_keys, tmp_path, monkeypatch):
    """A local S3 server on the loopback with a small Ego4D release in it."""
    server_module = pytest.importorskip("moto.server", reason="needs moto[server]")
    boto3 = pytest.importorskip("boto3")
    if ego4d.command_path() is None:
        pytest.skip("needs the program ego4d")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        endpoint = "http://{}:{}".format(*server.get_host_and_port())
        (tmp_path / "credentials").write_text("[toy]\naws_access_key_id = a\naws_secret_access_key = b\n")
        (tmp_path / "config").write_text("[profile toy]\nregion = us-east-1\n")
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id="a",
            aws_secret_access_key="b",
        )
        put_release(client)
        yield client
    finally:
        server.stop()


BUCKET = "ego4d-consortium-sharing"


def put_release(client):
    client.create_bucket(Bucket=BUCKET)
    client.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    location = f"s3://{BUCKET}/objects"
    files = {
        "public/v2_1/ego4d.json": json.dumps({"videos": [{"video_uid": "u1"}, {"video_uid": "u2"}]}),
        "public/v2_1/annotations/manifest.csv": "file_uid,type,s3_path\n"
        f"narration,json,{location}/narration.json\n",
        "public/v2_1/full_scale/manifest.csv": "video_uid,benchmarks,canonical_s3_location\n"
        f"u1,[EM|FHO],{location}/u1\nu2,[AV],{location}/u2\n",
        "objects/narration.json": json.dumps({"videos": VIDEOS}),
        "objects/u1": "first video",
        "objects/u2": "second video",
    }
    for key, body in files.items():
        client.put_object(Bucket=BUCKET, Key=key, Body=body.encode())


def test_the_official_program_fetches_a_release(s3, tmp_path):
    raw = tmp_path / "raw"
    found = ego4d.fetch(Ego4DSource(aws_profile="toy"), raw)
    assert [(video.video_id, video.path.read_text()) for video in found] == [
        ("u1", "first video"),
        ("u2", "second video"),
    ]
    assert len(read_narrations(narration_path(raw))) == 2
    assert (raw / "ego4d.json").is_file()


def test_a_missing_object_is_an_error_and_a_second_run_fetches_the_rest(s3, tmp_path):
    raw, source = tmp_path / "raw", Ego4DSource(aws_profile="toy")
    s3.delete_object(Bucket=BUCKET, Key="objects/u2")
    with pytest.raises(SourceError, match=r"1 files of 'full_scale' did not arrive: u2\.mp4"):
        ego4d.fetch(source, raw)
    (raw / "v2" / "full_scale" / "u2.mp4.1A2b").write_text("left by a kill")
    s3.put_object(Bucket=BUCKET, Key="objects/u2", Body=b"second video")
    untouched = (raw / "v2" / "full_scale" / "u1.mp4").stat().st_mtime_ns
    assert [video.video_id for video in ego4d.fetch(source, raw)] == ["u1", "u2"]
    assert (raw / "v2" / "full_scale" / "u1.mp4").stat().st_mtime_ns == untouched
    assert not list(raw.glob("v2/full_scale/*.mp4.*"))


def test_only_videos_of_the_wanted_benchmarks_are_fetched(s3, tmp_path):
    found = ego4d.fetch(Ego4DSource(aws_profile="toy", benchmarks=("FHO",)), tmp_path / "raw")
    assert [video.video_id for video in found] == ["u1"]
    assert not (tmp_path / "raw/v2/full_scale/u2.mp4").exists()
