"""Where programs are looked for before anything is built."""

import pytest

from dev import binaries


@pytest.fixture
def no_build(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path / "assets"))
    monkeypatch.setattr(binaries, "_build", lambda names, _say: pytest.fail(f"{names} would be built"))
    return tmp_path


def put(folder, name):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).touch(mode=0o755)
    return folder / name


def test_assets_come_before_the_cache(no_build):
    cached = put(no_build / "cache" / "imagestreams" / "bin" / f"etcd-{binaries.PROGRAMS['etcd'].version}", "etcd")
    assert binaries.ensure(["etcd"]) == {"etcd": cached}
    given = put(no_build / "assets", "etcd")
    assert binaries.ensure(["etcd"]) == {"etcd": given}


def test_another_version_in_the_cache_does_not_count(no_build):
    put(no_build / "cache" / "imagestreams" / "bin" / "etcd-v3.0.0", "etcd")
    assert binaries.find("etcd") is None


def test_programs_of_one_module_are_built_together_and_only_what_is_missing(no_build, monkeypatch):
    put(no_build / "assets", "kubectl")
    built = []

    def build(names, _say):
        built.append(names)
        for name in names:
            put(binaries.PROGRAMS[name].folder, name)

    monkeypatch.setattr(binaries, "_build", build)
    assert list(binaries.ensure(["kube-apiserver", "etcd", "kubectl", "kube-scheduler"])) == [
        "kube-apiserver",
        "etcd",
        "kubectl",
        "kube-scheduler",
    ]
    assert built == [["kube-apiserver", "kube-scheduler"], ["etcd"]]


@pytest.mark.parametrize("name", binaries.PROGRAMS)
def test_each_program_has_a_locked_version(name):
    program = binaries.PROGRAMS[name]
    assert program.version.startswith("v")
    sums = (binaries._GOMODS / program.module / "go.sum").read_text()
    assert f"{program.release} {program.version} h1:" in sums


def test_another_text_of_our_own_program_is_another_program(monkeypatch, tmp_path):
    program, module = binaries.PROGRAMS["openshift-api"], tmp_path / "openshift-api"
    module.mkdir()
    (module / "go.mod").write_text((binaries._GOMODS / "openshift-api" / "go.mod").read_text())
    monkeypatch.setattr(binaries, "_GOMODS", tmp_path)
    folders = set()
    for text in ("package main", "package main // better"):
        (module / "main.go").write_text(text)
        folders.add(program.folder)
    assert len(folders) == 2
    assert all(folder.name.startswith(f"openshift-api-{program.version}-") for folder in folders)
