"""GetModel's answer stays small, whatever the data and the directory of versions hold."""

import asyncio
import hashlib
import json
import shutil

from in_process import running
from variants import FROZEN, variant

from headlines.v1 import popularity_pb2 as pb
from service.model import artifact
from service.model.preprocessing import AUX_FEATURES, TIME_FEATURES


def with_outlets(models, directory, outlets):
    """A directory whose version 1 knows these outlets too."""
    shutil.copytree(models, directory)
    version = directory / "1"
    info = json.loads((version / artifact.INFO).read_text())
    info["outlet_levels"].update(dict.fromkeys(outlets, 0.25))
    (version / artifact.INFO).write_text(json.dumps(info))
    digest = hashlib.sha256((version / artifact.INFO).read_bytes()).hexdigest()
    lines = (version / artifact.CHECKSUMS).read_text().splitlines()
    lines = [f"{digest}  {artifact.INFO}" if line.endswith(artifact.INFO) else line for line in lines]
    (version / artifact.CHECKSUMS).write_text("\n".join(lines) + "\n")
    return directory


async def test_it_lists_a_thousand_of_170_000_outlets_and_says_how_many_there_are(make_settings, models, tmp_path):
    outlets = [f"outlet {i:06}" for i in range(170_000)]
    directory = with_outlets(models, tmp_path / "models", [*reversed(outlets), "a" * 201, "b" * 100_000])
    async with running(make_settings(models=directory)) as (_, stub):
        model = await stub.GetModel(pb.GetModelRequest())
        assert model.outlet_count == 170_004
        assert list(model.outlets) == ["gazette", "herald", *outlets[:998]]
        assert model.ByteSize() < 100_000
        headlines = [pb.Headline(text="park", outlet=outlet) for outlet in (outlets[-1], "b" * 100_000, "nobody")]
        answer = await stub.Predict(pb.PredictRequest(headlines=headlines))
        assert [prediction.outlet_known for prediction in answer.predictions] == [True, True, False]


async def test_it_lists_the_live_version_and_the_99_highest_others(make_settings, models, tmp_path):
    shutil.copytree(models, tmp_path / "models")
    broken = tmp_path / "broken" / artifact.CHECKSUMS
    broken.parent.mkdir(parents=True)
    name = "/".join(["a" * 200] * 30)
    broken.write_text(f"{'0' * 64}  {name}\n")
    for number in range(2, 152):
        shutil.copytree(tmp_path / "broken", tmp_path / "models" / str(number))
    async with running(make_settings(models=tmp_path / "models")) as (_, stub), asyncio.timeout(60):
        model = await stub.GetModel(pb.GetModelRequest())
        assert [version.version for version in model.versions] == [*range(151, 52, -1), 1]
        assert model.versions[-1].state == pb.ModelVersion.STATE_LIVE
        failed = model.versions[0]
        assert failed.state == pb.ModelVersion.STATE_FAILED
        assert len(failed.error) == 1000
        assert failed.error.startswith("aaa")


async def test_it_names_the_features_that_the_live_version_does_not_use(make_settings, models, tmp_path):
    directory = tmp_path / "models"
    shutil.copytree(models, directory)
    variant(models, tmp_path / "2", frozen=FROZEN)
    async with running(make_settings(models=directory)) as (_, stub), asyncio.timeout(60):
        model = await stub.GetModel(pb.GetModelRequest())
        assert list(model.frozen_features) == []
        (tmp_path / "2").rename(directory / "2")
        while (model := await stub.GetModel(pb.GetModelRequest())).version != 2:
            await asyncio.sleep(0.01)
        assert list(model.frozen_features) == list(TIME_FEATURES)
        assert list(model.aux_features) == list(AUX_FEATURES)
        headlines = [pb.Headline(text="City votes", outlet="gazette") for _ in range(3)]
        headlines[1].posted_at.FromSeconds(0)
        headlines[2].posted_at.FromSeconds(1_464_050_000)
        outputs = {
            prediction.main_output for prediction in (await stub.Predict(pb.PredictRequest(headlines=headlines))).predictions
        }
        assert len(outputs) == 1


async def test_a_second_answer_is_the_first_until_something_changes(make_settings, models, tmp_path):
    shutil.copytree(models, tmp_path / "models")
    async with running(make_settings(models=tmp_path / "models")) as (_, stub), asyncio.timeout(60):
        first = await stub.GetModel(pb.GetModelRequest())
        assert await stub.GetModel(pb.GetModelRequest()) == first
        shutil.copytree(models / "1", tmp_path / "models" / ".tmp-2")
        (tmp_path / "models" / ".tmp-2").rename(tmp_path / "models" / "2")
        while (await stub.GetModel(pb.GetModelRequest())).version != 2:
            await asyncio.sleep(0.01)
        versions = {it.version: it.state for it in (await stub.GetModel(pb.GetModelRequest())).versions}
        assert versions == {2: pb.ModelVersion.STATE_LIVE, 1: pb.ModelVersion.STATE_RETIRED}
