"""hdrops info."""

import json

import torch

import hdrops as package


def test_json_states_versions_cpu_and_providers(hdrops):
    code, stdout, stderr = hdrops("info", "--json")
    assert (code, stderr) == (0, "")
    facts = json.loads(stdout)
    assert facts["versions"]["hdrops"] == package.__version__
    assert facts["versions"]["torch"] == torch.__version__
    assert set(facts["versions"]) == {
        *("hdrops", "torch", "triton", "numpy", "OpenImageIO", "rawpy", "pillow-heif", "Python"),
    }
    cpu = facts["cpu"]
    assert cpu["level"] == package._C.cpu_level()
    assert cpu["best_level"] in cpu["compiled_levels"]
    assert cpu["torch_threads"] == torch.get_num_threads()
    assert {"exposure_fusion", "estimate_imf", "imf_fuse"} <= set(facts["operators"])
    for name, providers in facts["operators"].items():
        assert not name.endswith(("_out", "_backward"))
        assert providers["cpu"] == {"provider": "cpp", "reason": None}
        # What is not the fastest names its cause.
        assert (providers["cuda"]["provider"] == "cuda") == (providers["cuda"]["reason"] is None)


def test_table_states_the_same(hdrops):
    facts = json.loads(hdrops("info", "--json").stdout)
    code, stdout, stderr = hdrops("info")
    assert (code, stderr) == (0, "")
    text = " ".join(stdout.split())
    for value in (*facts["versions"].values(), facts["cpu"]["level"], *facts["operators"]):
        assert value is None or value in text
    for backend, reason in facts["inactive"].items():
        assert f"{backend} kernels " + ("active" if reason is None else f"inactive: {reason}") in text
