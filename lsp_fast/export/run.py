"""Acts with an exported policy. It needs Python 3.10 with NumPy and ONNX Runtime, and nothing else.

    policy = Policy("policy")              # the folder that holds policy.json
    policy.reset()                         # where an episode begins
    action = policy.act(observation)       # once an agent step, in the environment's own units

`python run.py` repeats what the agent did when it was exported, and says whether it comes out the same. `policy.json`
says what observations and actions are, and how long a step takes.
"""

from __future__ import annotations

import importlib
import json
import sys
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
TOLERANCE = 1e-4
"""Of the self-test, as a share of half an action's range."""

Noise = Callable[[str, tuple[int, ...]], np.ndarray]
"""(name of the input, its shape) -> standard normal numbers, float32."""


class Policy:
    """One robot's policy, and what it remembers of the episode.

    Args:
        folder: holds policy.json and the graphs; by default this file's.
        seed: of the numbers that it draws: latent states, candidates of plans, actions.
        threads: that a graph may take.
        noise: draws these numbers instead, for comparisons.
    """

    def __init__(
        self, folder: str | Path = HERE, *, seed: int = 0, threads: int = 1, noise: Noise | None = None
    ) -> None:
        folder = Path(folder)
        self.about: dict[str, Any] = json.loads((folder / "policy.json").read_text())
        self._graphs = {
            name: _open(folder / graph["file"], threads) for name, graph in self.about["graphs"].items() if graph
        }
        action = self.about["action"]
        self._center, self._scale = np.array(action["center"]), np.array(action["scale"])
        self._low, self._high = np.array(action["low"]), np.array(action["high"])
        self._noise = noise or drawn(seed)
        self._held = False
        self._memory: dict[str, np.ndarray] = {}
        self.reset()

    @property
    def skill(self) -> np.ndarray | None:
        """The skill in force, [Z]; of HIRO its aim; None without skills."""
        skill = self._memory.get("skill")
        return None if skill is None else skill[0].copy()

    def reset(self) -> None:
        """Forget the episode: the next observation begins another one. A skill that is held stays."""
        held = {"skill": self._memory["skill"]} if self._held else {}
        shapes = {name: entry["shape"] for name, entry in self.about["memory"].items()}
        self._memory = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()} | held
        self._step = 0

    def hold(self, skill: Any) -> None:
        """Keep one skill, in this episode and those that follow, instead of planning others; None plans again.

        Args:
            skill: [Z] numbers; those of N(0, I) are what it was trained with. Of HIRO the aim.

        Raises:
            ValueError: a policy without skills, another number of numbers, or one that is not finite.
        """
        if "skill" not in self._memory:
            raise ValueError(f"{self.about['algorithm']} has no skills to hold")
        if skill is not None:
            given, wanted = np.asarray(skill, np.float32), self._memory["skill"].shape[1:]
            if given.shape != wanted or not np.isfinite(given).all():
                raise ValueError(f"a skill must be {wanted[0]} finite numbers, not {np.asarray(skill).tolist()}")
            self._memory["skill"] = given[None].copy()
        self._held = skill is not None

    def act(self, observation: Any) -> np.ndarray:
        """The action of this agent step, to be applied `action_repeat` environment steps.

        Args:
            observation: [O] in the order of policy.json's entries, or a dictionary of these entries; or a frame. As the
                environment gives it: it is normalised inside.

        Returns:
            float64, within the environment's own bounds.

        Raises:
            ValueError: an observation of another shape, with a number that is not finite, or a frame that is not of
                whole numbers from 0 to 255.
            FloatingPointError: the action, or what is to be remembered, is not finite; nothing was remembered of this
                step.
        """
        values = self._memory | {"observation": self._seen(observation)} | self._draw("act")
        planning = self.about["planning"]
        if planning and not self._held:
            passed = self._step % planning["segment"]
            if passed % planning["every"] == 0:
                values |= self._plan(values, begins=passed == 0)
        values |= self._call("act", values)
        action = np.clip(values["action"][0].astype(np.float64), -1, 1)
        memory = {name: values.get(entry["next"], self._memory[name]) for name, entry in self.about["memory"].items()}
        if not all(np.isfinite(x).all() for x in (action, *memory.values())):
            raise FloatingPointError("the action or the memory is not finite: the observation is too strange")
        self._memory = memory
        self._step += 1
        own = self._center + self._scale * action.reshape(self._center.shape)
        return np.clip(own, self._low, self._high)  # which rounding may have left

    def _plan(self, values: dict[str, np.ndarray], begins: bool) -> dict[str, np.ndarray]:
        """A new skill, or (of a policy that plans actions) the action.

        Args:
            begins: a segment does; where plans go on from the last one, its first entry has passed then.
        """
        planning = self.about["planning"]
        if planning["by"] == "chance":
            return {"skill": self._noise("skill_noise", values["skill"].shape)}
        values = values | self._draw("plan")
        if begins and "plan" in values:
            last = values["plan"]
            values["plan"] = np.concatenate([last[:, 1:], last[:, -1:]], 1)
        if planning["after_observing"]:
            # The planner begins in the state that this observation led to.
            found = self._call("act", values)
            values |= {name: found["next_" + name] for name in ("stoch", "deter")}
        return self._call("plan", values)

    def _draw(self, graph: str) -> dict[str, np.ndarray]:
        """Numbers for the inputs of a graph that are noise."""
        inputs = self.about["graphs"][graph]["inputs"]
        return {x["name"]: self._noise(x["name"], tuple(x["shape"])) for x in inputs if x["role"] == "noise"}

    def _call(self, graph: str, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """A graph's outputs by their names."""
        told = self.about["graphs"][graph]
        outputs = self._graphs[graph]({x["name"]: values[x["name"]] for x in told["inputs"]})
        return dict(zip((x["name"] for x in told["outputs"]), outputs, strict=True))

    def _seen(self, observation: Any) -> np.ndarray:
        """An observation as the graphs take it, a batch of one."""
        told = self.about["observation"]
        if isinstance(observation, Mapping):
            if not told["entries"]:
                raise ValueError("the observation's entries have no names: give one array")
            missing = [entry["name"] for entry in told["entries"] if entry["name"] not in observation]
            if missing:
                raise ValueError(f"the observation lacks {', '.join(missing)}")
            for entry in told["entries"]:
                name, size = entry["name"], entry["size"]
                if isinstance(observation[name], Mapping):
                    raise ValueError(f"the observation's {name} is a dictionary: give its {size} numbers in one array")
            parts = [np.ravel(observation[entry["name"]]) for entry in told["entries"]]
            for part, entry in zip(parts, told["entries"], strict=True):
                if part.size != entry["size"]:
                    raise ValueError(f"the observation's {entry['name']} has {entry['size']} numbers, not {part.size}")
            observation = np.concatenate(parts)
        given = np.asarray(observation)
        array = given.astype(told["dtype"])
        if array.shape != tuple(told["shape"]):
            raise ValueError(f"an observation has shape {tuple(told['shape'])}, not {array.shape}")
        if told["dtype"] == "uint8" and not np.array_equal(array, given):
            raise ValueError("a frame has whole numbers from 0 to 255")
        if not np.isfinite(array).all():
            raise ValueError(f"an observation must be finite; entry {int(np.argmin(np.isfinite(array)))} is not")
        return array[None]


def drawn(seed: int) -> Noise:
    """Numbers from NumPy's generator."""
    generator = np.random.default_rng(seed)
    return lambda name, shape: generator.standard_normal(shape, np.float32)


def repeated(seed: int) -> Noise:
    """Numbers that are the same in every version of NumPy, a stream for each name: the self-test's."""
    streams: dict[str, np.random.RandomState] = {}

    def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name not in streams:
            streams[name] = np.random.RandomState((zlib.crc32(name.encode()) + seed) % 2**32)
        return streams[name].standard_normal(shape).astype(np.float32)

    return draw


def _open(path: Path, threads: int) -> Callable[[dict[str, np.ndarray]], list[np.ndarray]]:
    """A graph as a function of named arrays."""
    if path.suffix == ".onnx":
        runtime: Any = importlib.import_module("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # With patterns of memory, versions before 1.19 gave wrong plans from the second one on.
        options.enable_mem_pattern = False
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return lambda values: session.run(None, values)
    torch: Any = importlib.import_module("torch")
    module = torch.export.load(path).module()

    def call(values: dict[str, np.ndarray]) -> list[np.ndarray]:
        with torch.no_grad():
            return [x.numpy() for x in module(*map(torch.from_numpy, values.values()))]

    return call


def self_test(folder: str | Path = HERE) -> float:
    """The largest difference from what the agent itself did, as a share of half an action's range."""
    with np.load(Path(folder) / "selftest.npz") as recorded:
        policy = Policy(folder, noise=repeated(int(recorded["seed"])))
        worst = 0.0
        for observation, is_first, action in zip(
            recorded["observation"], recorded["is_first"], recorded["action"], strict=True
        ):
            if is_first:
                policy.reset()
            difference = np.abs(policy.act(observation) - action) / np.maximum(np.abs(policy._scale), 1e-9)
            # A NaN is no small difference.
            worst = max(worst, float(np.nan_to_num(difference, nan=np.inf).max()))
        return worst


def main() -> int:
    worst = self_test()
    passed = worst <= TOLERANCE
    print(f"self-test {'passed' if passed else 'FAILED'}: actions differ by at most {worst:.1e} of half their range")
    if not passed:
        print(f"more than {TOLERANCE:g}: another version of the graphs than of selftest.npz, or a broken ONNX Runtime")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
