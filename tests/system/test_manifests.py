"""The manifests in deploy/kubernetes: against Kubernetes' own schemas, and against what serverworker.toml says beside them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from serverworker.config_file import read_file
from serverworker.decisions.turn import GRACE_SECONDS, KILL_AGAIN_SECONDS
from serverworker.values.reading import combine
from serverworker.values.settings import Settings
from tests.system import SKIP

KUBERNETES = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes"
FOLDERS = (KUBERNETES / "base", KUBERNETES / "overlays" / "example")
CUSTOM = ("PodMonitor",)
"""Kinds that the Prometheus operator brings; Kubernetes itself has no schema of them."""
LAST_WORDS_SECONDS = 10.0
"""For the monitor's exit handlers and for messages, once the workers are gone."""

Manifest = dict[str, Any]


def rendered(folder: Path) -> list[Manifest]:
    """All that `kubectl apply -k FOLDER` would send."""
    import yaml

    if shutil.which("kubectl") is None:
        raise SkipTest("needs kubectl, of any version since 1.25")
    command = ["kubectl", "kustomize", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise AssertionError(done.stderr)
    return list(yaml.safe_load_all(done.stdout))


def written(folder: Path) -> list[Manifest]:
    """Those that stand in files of the base, which are whole by themselves."""
    import yaml

    files = sorted(path for path in folder.glob("*.yaml") if path.name != "kustomization.yaml")
    return [manifest for path in files for manifest in yaml.safe_load_all(path.read_text())]


def of_kind(kind: str, manifests: list[Manifest]) -> Manifest:
    """The one of that kind."""
    (found,) = [each for each in manifests if each["kind"] == kind]
    return found


def settings_of(folder: Path) -> Settings:
    """The configuration beside them, read as the session reads it."""
    source = read_file("serverworker.toml", str(folder))
    if source.problems:
        raise AssertionError(source.problems)
    return combine(source)


class SchemaTests(SynchronousTestCase):
    """What Kubernetes would say to them."""

    skip = SKIP

    def check(self, manifests: list[Manifest]) -> None:
        try:
            import kubernetes_validate  # type: ignore[import-untyped]
        except ImportError:
            raise SkipTest("needs kubernetes-validate: pip install 'serverworker[frameworks]'") from None
        latest = kubernetes_validate.latest_version()
        for version in ("1.28.0", latest):
            for manifest in manifests:
                if manifest["kind"] not in CUSTOM:
                    kubernetes_validate.validate(manifest, version, strict=True)

    def test_written(self) -> None:
        """The base's files by themselves, by the oldest version that knows all of it and by the newest."""
        self.check(written(FOLDERS[0]))

    def test_rendered(self) -> None:
        """What kustomize makes of the base and of the example; each kind once, and the configuration mounted by its name."""
        for folder in FOLDERS:
            manifests = rendered(folder)
            self.check(manifests)
            volumes = of_kind("Deployment", manifests)["spec"]["template"]["spec"]["volumes"]
            (name,) = [each["configMap"]["name"] for each in volumes if "configMap" in each]
            self.assertEqual(name, of_kind("ConfigMap", manifests)["metadata"]["name"])
            self.assertRegex(name, r"^mysite-[a-z0-9]{10}$")


class AgreementTests(SynchronousTestCase):
    """Figures that stand in two files and belong to each other."""

    skip = SKIP

    def test_grace(self) -> None:
        """The grace is longer than the longest end of the session."""
        for folder in FOLDERS:
            pod = of_kind("Deployment", rendered(folder))["spec"]["template"]["spec"]
            drain = settings_of(folder).drain
            longest = drain.unready_seconds + drain.timeout_seconds + GRACE_SECONDS + KILL_AGAIN_SECONDS
            self.assertGreaterEqual(pod["terminationGracePeriodSeconds"], longest + LAST_WORDS_SECONDS)

    def test_unready(self) -> None:
        """A probe has the time to see that the end has begun, while it still serves."""
        pod = of_kind("Deployment", written(FOLDERS[0]))["spec"]["template"]["spec"]
        period = pod["containers"][0]["readinessProbe"]["periodSeconds"]
        for folder in FOLDERS:
            self.assertGreater(settings_of(folder).drain.unready_seconds, period)

    def test_ports(self) -> None:
        """The ports that the container names are those of the configuration; the Service leads to the application's."""
        manifests = written(FOLDERS[0])
        (container,) = of_kind("Deployment", manifests)["spec"]["template"]["spec"]["containers"]
        named = {each["name"]: each["containerPort"] for each in container["ports"]}
        for folder in FOLDERS:
            settings = settings_of(folder)
            self.assertEqual([port.port for port in settings.ports], [named["http"]])
            self.assertEqual(settings.health.endpoint, f"tcp:{named['health']}")
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            self.assertEqual(container[probe]["httpGet"]["port"], "health")
        self.assertEqual(of_kind("Service", manifests)["spec"]["ports"][0]["targetPort"], "http")

    def test_labels(self) -> None:
        """All select the same pods."""
        manifests = written(FOLDERS[0])
        deployment = of_kind("Deployment", manifests)["spec"]
        labels = deployment["template"]["metadata"]["labels"]
        self.assertEqual(deployment["selector"]["matchLabels"], labels)
        self.assertEqual(of_kind("Service", manifests)["spec"]["selector"], labels)
        self.assertEqual(of_kind("PodDisruptionBudget", manifests)["spec"]["selector"]["matchLabels"], labels)
        (spread,) = deployment["template"]["spec"]["topologySpreadConstraints"]
        self.assertEqual(spread["labelSelector"]["matchLabels"], labels)
