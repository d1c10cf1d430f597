"""The EgoClip rule by hand, both releases' narration files, EgoMCQ, and the official program's manifests."""

import json

import numpy as np
import pytest

from avion_core.config import Ego4DSource
from avion_core.data import ego4d
from avion_core.data.sources import SourceError


def narrations(*pairs):
    return {
        "narrations": [{"timestamp_sec": t, "narration_text": text} for t, text in pairs],
        "summaries": [],
    }


VIDEOS = {
    "b": {
        "narration_pass_1": narrations((0.0, "#C C a"), (2.0, "#C C b"), (4.0, "#C C c")),
        "status": "complete",
    },
    "a": {
        "narration_pass_1": narrations((12.0, "#C C e "), (6.0, "#C C d")),
        "narration_pass_2": narrations((9.0, "#O A man X f")),
        "status": "complete",
    },
    "empty": {"status": "redacted"},
}


@pytest.mark.parametrize("content", [{"videos": VIDEOS}, VIDEOS], ids=["videos key", "older release"])
def test_passes_are_read_in_the_order_of_time(tmp_path, content):
    path = tmp_path / "narration.json"
    path.write_text(json.dumps(content))
    passes = ego4d.read_narrations(path)
    assert [(entry.video_uid, entry.name[-1], entry.texts) for entry in passes] == [
        ("a", "1", ["#C C d", "#C C e"]),
        ("a", "2", ["#O A man X f"]),
        ("b", "1", ["#C C a", "#C C b", "#C C c"]),
    ]
    assert passes[0].uids == ["a:narration_pass_1:1", "a:narration_pass_1:0"]


def test_egoclip_windows_by_hand(tmp_path):
    # Mean gaps: pass a/1 6 s, pass b/1 2 s; a/2 has one narration and so none. α = (6 + 2) / 2 = 4.
    # Half widths β/(2α): a/1 6/8 = 0.75 s, b/1 2/8 = 0.25 s, a/2 takes β = α: 0.5 s.
    path = tmp_path / "narration.json"
    path.write_text(json.dumps(VIDEOS))
    windows = ego4d.egoclip_windows(ego4d.read_narrations(path))
    np.testing.assert_allclose(windows[0], ([5.25, 11.25], [6.75, 12.75]))
    np.testing.assert_allclose(windows[1], ([8.5], [9.5]))
    np.testing.assert_allclose(windows[2], ([-0.25, 1.75, 3.75], [0.25, 2.25, 4.25]))


WHOLE = {"timestamp_sec": 1, "narration_text": "#C C cuts"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "a list where an object is expected"),
        ("text", '"text" where an object is expected'),
        ({"videos": [1]}, "videos: a list where an object is expected"),
        ({"videos": {}}, "no video in it has a narration"),
        ({"version": "v1"}, "no video in it has a narration"),
        ({"videos": {"u": [WHOLE]}}, r"videos\.u: a list where"),
        ({"videos": {"u": {"narration_pass_1": [WHOLE]}}}, r"videos\.u\.narration_pass_1: a list where"),
        ({"u": {"narration_pass_1": [WHOLE]}}, r"videos\.u\.narration_pass_1: a list where"),
        (
            {"videos": {"u": {"narration_pass_2": {"narrations": {"0": WHOLE}}}}},
            r"narration_pass_2\.narrations: an object where a list",
        ),
        (
            {"videos": {"u": {"narration_pass_1": {"narrations": [WHOLE, "cuts"]}}}},
            r'narrations\[1\]: "cuts" where an object',
        ),
        (
            {"videos": {"u": {"narration_pass_1": {"narrations": [WHOLE, {"timestamp_sec": 1}]}}}},
            r"narrations\[1\]: it lacks 'narration_text'",
        ),
    ],
)
def test_a_wrong_place_in_the_narrations_is_named_before_any_work(tmp_path, content, message):
    (tmp_path / "v2/annotations").mkdir(parents=True)
    (tmp_path / "v2/annotations/narration.json").write_text(json.dumps(content))
    (tmp_path / "ego4d.json").write_text('{"videos": []}')
    with pytest.raises(SourceError, match=rf"narration\.json: .*{message}"):
        ego4d.check(tmp_path, allow_missing_metadata=False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "a list where an object"),
        ("{}", "videos: null where a list"),
        ('{"videos": {"u": {}}}', "videos: an object where a list"),
        ('{"videos": [{"video_uid": "u"}, {}]}', r"videos\[1\]: it lacks 'video_uid'"),
        ('{"videos": [{"video_uid": "u"}', r"line 1, column 31: not valid JSON"),
    ],
)
def test_a_wrong_place_in_the_metadata_is_named_before_any_work(tmp_path, content, message):
    (tmp_path / "v2/annotations").mkdir(parents=True)
    (tmp_path / "v2/annotations/narration.json").write_text(json.dumps(VIDEOS))
    (tmp_path / "v2/ego4d.json").write_text(content)
    with pytest.raises(SourceError, match=rf"v2/ego4d\.json: .*{message}"):
        ego4d.check(tmp_path, allow_missing_metadata=True)


def test_without_metadata_nothing_begins_unless_that_is_allowed(tmp_path):
    (tmp_path / "v2/annotations").mkdir(parents=True)
    (tmp_path / "v2/annotations/narration.json").write_text(json.dumps(VIDEOS))
    with pytest.raises(SourceError, match=r"no ego4d\.json.*allow_missing_ego4d_json: true"):
        ego4d.check(tmp_path, allow_missing_metadata=False)
    ego4d.check(tmp_path, allow_missing_metadata=True)


@pytest.mark.parametrize("wrong", ["v2/annotations/narration.json", "ego4d.json", "egomcq.json"])
def test_files_too_large_for_the_start_are_read_when_the_data_are_fetched(tmp_path, monkeypatch, wrong):
    (tmp_path / "v2/annotations").mkdir(parents=True)
    (tmp_path / "v2/annotations/narration.json").write_text(json.dumps(VIDEOS))
    (tmp_path / wrong).write_text("[]")
    monkeypatch.setattr(ego4d, "CHECKED_AT_ONCE_BYTES", 1)
    ego4d.check(tmp_path, allow_missing_metadata=True)
    with pytest.raises(SourceError, match=rf"{wrong}: a list where an object"):
        ego4d.find_videos(tmp_path)


def question(answer, uids):
    samples = {
        str(n): {"video_uid": uid, "clip_start": n, "clip_end": n + 1.5, "clip_text": f"#C C {n}"}
        for n, uid in enumerate(uids)
    }
    return {"answer": answer, "types": 1, "query": samples[str(answer)], "choices": samples}


def test_benchmark_videos_are_those_of_egomcq_and_of_held_out_splits(tmp_path):
    assert ego4d.read_egomcq(tmp_path) == []
    (tmp_path / "egomcq.json").write_text(json.dumps({"0": question(2, "vwxyz")}))
    videos = [
        {"video_uid": "t", "split_em": "train", "split_fho": None},
        {"video_uid": "h", "split_em": "train", "split_fho": "test"},
    ]
    elsewhere = [{"video_uid": "e", "split_av": "multi", "duration_sec": 12.5}]
    (tmp_path / "ego4d.json").write_text(json.dumps({"videos": videos}))
    for release in ("v1", "v2_1"):
        (tmp_path / release).mkdir()
        (tmp_path / release / "ego4d.json").write_text(json.dumps({"videos": elsewhere}))
    (entry,) = ego4d.read_egomcq(tmp_path)
    assert (entry.answer, entry.type, entry.text, entry.ends_s[4]) == (2, 1, "#C C 2", 5.5)
    metadata = ego4d.read_metadata(tmp_path, allow_missing=False)
    assert metadata.held_out == {"h", "e"}
    assert metadata.lengths_s == {"e": 12.5}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": 7}, "answer is 7; it must be 0 to 4"),
        ({"answer": -1}, "answer is -1"),
        ({"answer": True}, "answer is true"),
        ({"answer": 2.5}, r"answer is 2\.5"),
        ({"types": 3}, "types is 3; it must be 1 to 2"),
        ({"query": {"clip_text": None}}, "its query has no text"),
        ({"query": None}, "cannot be read"),
        ({"choices": question(2, "vwxy")["choices"]}, "KeyError.*4"),
        ({"choices": [1, 2, 3, 4, 5]}, "cannot be read"),
    ],
)
def test_a_wrong_question_is_named_before_any_work(tmp_path, change, message):
    (tmp_path / "v2/annotations").mkdir(parents=True)
    (tmp_path / "v2/annotations/narration.json").write_text(json.dumps(VIDEOS))
    (tmp_path / "egomcq.json").write_text(json.dumps({"7": question(2, "vwxyz") | change}))
    with pytest.raises(SourceError, match=rf"egomcq\.json: question 7: .*{message}"):
        ego4d.check(tmp_path, allow_missing_metadata=True)


@pytest.mark.parametrize("end", ["soon", None, float("nan"), -1])
def test_a_choice_that_is_no_clip_is_named(tmp_path, end):
    wrong = question(2, "vwxyz")
    wrong["choices"]["3"]["clip_end"] = end
    (tmp_path / "egomcq.json").write_text(json.dumps({"7": wrong}))
    with pytest.raises(SourceError, match="question 7: choice 3 is no clip of a video"):
        ego4d.read_egomcq(tmp_path)


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


# ------------------------------------------------------------- the official program against a local S3 server


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
    assert len(ego4d.read_narrations(ego4d.narration_path(raw))) == 3
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
