"""Weights to and from the checkpoints of the official implementation, in both of their layouts.

A checkpoint is `{"model": state_dict}`. The two layouts differ in the ensemble of values alone: `_Qs.params.2.ln.bias`
now, `_Qs.params.11` once, where every linear layer has weight and bias, and every layer but the last those of its norm.
Keys with `.module.` are placeholders, `_detach_Qs_params` a copy of the values.
"""

from __future__ import annotations

import os
import pickle
import pickletools
import re
import struct
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from worldline.errors import DataError, FileError
from worldline.files import regular_size, replacing

if TYPE_CHECKING:
    from worldline.models.tdmpc2.model import TDMPC2

_PARTS = {"weight": "weight", "bias": "bias", "ln.weight": "scale", "ln.bias": "shift"}
_OLD_PARTS = ("weight", "bias", "ln.weight", "ln.bias")  # of the layers of an ensemble, one after the other
_NETWORKS = {"_dynamics": "dynamics", "_reward": "reward", "_termination": "termination", "_pi": "policy"}
_ENSEMBLES = {"_Qs.params": "q", "_target_Qs_params": "target_q"}
_CONVS = (2, 4, 6, 8)  # places of the convolutions in the official image encoder
_STATE_DIM = "_encoder.state.0.weight"

_MAX_DIRECTORY_BYTES = 1 << 20  # of the archive that a checkpoint is
_MAX_PICKLE_BYTES = 1 << 18  # which names the tensors; usual are 20,000
_MAX_MEMBERS = 1000  # of an ensemble, and of tasks
_STORAGES = ("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
_NAMED = {  # what the pickle may name: what tensors are made of
    "collections OrderedDict",
    "torch Size",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_meta_tensor_no_storage",  # placeholders
    *(f"torch {kind}" for kind in ("float64", "float32", "float16", "bfloat16", "int64", "bool")),
    *(f"torch {kind}Storage" for kind in _STORAGES),
}
_BY_VALUE = {"STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"}  # name things otherwise


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Return the tensors of an official checkpoint by their names in the present layout, without placeholders.

    Raises:
        FileError: It cannot be read, or holds anything but tensors.
    """
    file = Path(path)
    try:
        _check_archive(file)
        document = torch.load(file, map_location="cpu", weights_only=True)
    except (*_UNREADABLE, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
        raise FileError(
            f"Cannot read {file} as a checkpoint of TD-MPC2: {reason}. Give a file that the official code saved; "
            "nothing in it but tensors is read."
        ) from error
    tensors = document.get("model", document) if isinstance(document, dict) else None
    if not isinstance(tensors, dict) or "_dynamics.0.weight" not in tensors:
        raise FileError(f"{file} is not a checkpoint of TD-MPC2: it has no 'model' with '_dynamics.0.weight'.")
    found = {
        _renamed(str(name)): value
        for name, value in tensors.items()
        if isinstance(value, Tensor) and ".module." not in str(name) and not str(name).startswith("_detach_")
    }
    found = {name: value for name, value in found.items() if not name.split(".")[-1].startswith("__")}
    for name, tensor in found.items():
        # One that is empty, or says the same number again and again, has any shape that it likes.
        is_held = tensor.layout is torch.strided and not tensor.is_meta and tensor.numel() > 0
        if not is_held or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise FileError(f"{file} does not hold the numbers of the tensor {name[:80]!r}. Give an intact checkpoint.")
    return found


_UNREADABLE = (OSError, EOFError, RuntimeError, ValueError, LookupError, TypeError, AttributeError, zipfile.BadZipFile)


def _check_archive(file: Path) -> None:
    """Check that an archive is as `torch.save` writes it: torch takes memory for whatever it claims.

    Raises:
        ValueError, OSError, zipfile.BadZipFile: It is not.
    """
    size = regular_size(file)
    with file.open("rb") as stream:
        stream.seek(max(0, size - 98))
        tail = stream.read()
        start = tail.rfind(b"PK\5\6")
        end = tail[start:]
        if start < 0 or len(end) != 22:
            raise ValueError("it is no zip archive, or an older format of torch's, or it was cut off")
        (directory_bytes,) = struct.unpack("<L", end[12:16])
        if directory_bytes == 0xFFFFFFFF and tail[:4] == b"PK\6\6":  # a 64-bit end record
            (directory_bytes,) = struct.unpack("<Q", tail[40:48])
        if directory_bytes > _MAX_DIRECTORY_BYTES:
            raise ValueError(f"its table of contents claims {directory_bytes:,} bytes")
        with zipfile.ZipFile(stream) as archive:
            infos = archive.infolist()
            if any(info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size for info in infos):
                raise ValueError("it is compressed, which torch.save never does")
            if sum(info.file_size for info in infos) > size:
                raise ValueError("its members overlap")
            for info in infos:
                if info.filename.endswith(".pkl"):
                    if info.file_size > _MAX_PICKLE_BYTES:
                        raise ValueError(f"{info.filename[:80]} has {info.file_size:,} bytes")
                    _check_names(archive.read(info))


def _check_names(content: bytes) -> None:
    """Check that a pickle names nothing but what tensors are made of. It is read, not run."""
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name in _BY_VALUE or (opcode.name == "GLOBAL" and argument not in _NAMED):
            raise ValueError(f"it names {str(argument or opcode.name)[:80]!r}, which is no part of a tensor")


def _renamed(name: str) -> str:
    """Return the present name of a tensor of the ensemble in the old layout; others stay."""
    match = re.fullmatch(r"(_Qs|_target_Qs)\.params\.(\d+)", name)
    if match is None:
        return name
    layer, part = divmod(int(match[2]), 4)
    prefix = "_Qs.params" if match[1] == "_Qs" else "_target_Qs_params"
    return f"{prefix}.{layer}.{_OLD_PARTS[part]}"


def infer_settings(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the settings that the shapes of a checkpoint's tensors tell.

    Raises:
        DataError: A tensor is missing, or shapes do not fit together.
    """
    try:
        task_dim, num_tasks = 0, 0
        if "_task_emb.weight" in tensors:
            num_tasks, task_dim = tensors["_task_emb.weight"].shape
        units, width = tensors["_dynamics.0.weight"].shape
        latent = len(tensors["_dynamics.2.weight"])
        num_q = len(tensors["_Qs.params.0.weight"])
        num_bins = len(tensors["_reward.2.weight"])
        if max(num_q, num_tasks) > _MAX_MEMBERS:
            raise ValueError(f"an ensemble of {num_q} for {num_tasks} tasks")
        action_dim = len(tensors["_pi.2.weight"]) // 2
        settings: dict[str, Any] = {
            "latent": latent,
            "units": units,
            "action_dim": action_dim,
            "action_type": "continuous",
            "num_q": num_q,
            "num_bins": num_bins,
            "episodic": "_termination.0.weight" in tensors,
            **_encoder_settings(tensors, task_dim),
        }
    except (KeyError, ValueError) as error:
        raise DataError(
            f"The checkpoint's tensors are not those of TD-MPC2: {error} is missing or misshapen. Give an intact one."
        ) from error
    if width != latent + action_dim + task_dim:
        raise DataError(
            f"The checkpoint's dynamics take {width} numbers, but a latent state of {latent}, {action_dim} actions "
            f"and a task embedding of {task_dim} are {latent + action_dim + task_dim}."
        )
    if num_tasks:
        masks = tensors.get("_action_masks")
        dims = (action_dim,) * num_tasks if masks is None else tuple(int(row.sum()) for row in masks)
        settings |= {"task_dim": task_dim, "task_action_dims": dims}
    if "log_std_min" in tensors:
        low, span = float(tensors["log_std_min"]), float(tensors["log_std_dif"])
        settings |= {"log_std_min": low, "log_std_max": low + span}
    return settings


def _encoder_settings(tensors: Mapping[str, Tensor], task_dim: int) -> dict[str, Any]:
    if _STATE_DIM in tensors:
        units, width = tensors[_STATE_DIM].shape
        layers = sum(bool(re.fullmatch(r"_encoder\.state\.\d+\.weight", name)) for name in tensors)
        return {"obs_shape": (width - task_dim,), "encoder_units": units, "encoder_layers": layers}
    channels, frames, _, _ = tensors[f"_encoder.rgb.{_CONVS[0]}.weight"].shape
    return {"obs_shape": (frames, 64, 64), "image_channels": channels}


def to_ours(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a checkpoint's tensors by our names; by their own where they are unknown."""
    known = {"log_std_min", "log_std_dif", "_action_masks"}
    ours: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name not in known:
            ours |= _ours(name, tensor)
    if "task_embedding" in ours:
        ours["task_embedding"] = torch.renorm(ours["task_embedding"], 2, 0, 1.0)
    return ours


def to_official(model: TDMPC2) -> dict[str, Tensor]:
    """Return the model's tensors by the official names in the present layout, with the copies that are in it.

    Raises:
        DataError: The model is one that the official code cannot build.
    """
    config = model.config
    if config.is_discrete or (config.images and (config.vectors or model.net.encoder.join is not None)):
        raise DataError(
            "The official code knows continuous actions and either vectors or images of 64 x 64 pixels whose features "
            "are as many as the latent state has (512). Use save_pretrained for this model."
        )
    state = {name: tensor.detach().cpu().clone() for name, tensor in model.net.state_dict().items()}
    result: dict[str, Tensor] = {
        "log_std_min": torch.tensor(config.log_std_min),
        "log_std_dif": torch.tensor(config.log_std_max - config.log_std_min),
    }
    if config.num_tasks:
        result["_task_emb.weight"] = state["task_embedding"]
        result["_action_masks"] = model.net.action_mask.float().cpu()
    prefixes = {ours: theirs for theirs, ours in _NETWORKS.items()} | {"encoder.vector": "_encoder.state"}
    official_part = {ours: theirs for theirs, ours in _PARTS.items()}
    for name, tensor in state.items():
        network, _, rest = name.partition(".layers.")
        layer, _, part = rest.partition(".")
        if network in prefixes:
            result[f"{prefixes[network]}.{layer}.{official_part[part]}"] = tensor
        elif match := re.fullmatch(r"encoder\.image\.convs\.(\d)\.(weight|bias)", name):
            result[f"_encoder.rgb.{_CONVS[int(match[1])]}.{match[2]}"] = tensor
        elif match := re.fullmatch(r"(q|target_q)\.members\.0", network):
            stacked = torch.stack([state[f"{match[1]}.members.{index}.layers.{rest}"] for index in range(config.num_q)])
            target = f"{layer}.{official_part[part]}"
            if match[1] == "q":
                result[f"_Qs.params.{target}"] = stacked
                result[f"_detach_Qs_params.{target}"] = stacked.clone()
                result[f"_Qs.module.{target}"] = tensor
                result[f"_detach_Qs.module.{target}"] = stacked.clone()
            else:
                result[f"_target_Qs_params.{target}"] = stacked
                result[f"_target_Qs.module.{target}"] = stacked.clone()
    return result


def write_checkpoint(tensors: Mapping[str, Tensor], path: str | os.PathLike[str]) -> None:
    """Write tensors as an official checkpoint.

    Raises:
        FileError: The file cannot be written.
    """
    file = Path(path)
    try:
        with replacing(file) as (temporary,):
            torch.save({"model": dict(tensors)}, temporary)
    except OSError as error:
        raise FileError(f"Cannot write {file}: {error}. Choose a folder you may write to, with room for it.") from error


def _ours(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """Return an official tensor by our name, or our several; by its own where it is unknown."""
    for theirs, ours in _ENSEMBLES.items():
        if name.startswith(f"{theirs}."):
            layer, part = _split(name.removeprefix(f"{theirs}."))
            return {f"{ours}.members.{index}.layers.{layer}.{part}": row for index, row in enumerate(tensor)}
    if match := re.fullmatch(r"_encoder\.rgb\.(\d)\.(weight|bias)", name):
        place = int(match[1])
        return {f"encoder.image.convs.{_CONVS.index(place)}.{match[2]}" if place in _CONVS else name: tensor}
    for theirs, ours in (*_NETWORKS.items(), ("_encoder.state", "encoder.vector")):
        if name.startswith(f"{theirs}."):
            layer, part = _split(name.removeprefix(f"{theirs}."))
            return {f"{ours}.layers.{layer}.{part}": tensor}
    return {"task_embedding" if name == "_task_emb.weight" else name: tensor}


def _split(name: str) -> Sequence[str]:
    """Return layer and our name of the part, of "0.ln.weight" and its like."""
    layer, _, part = name.partition(".")
    return layer, _PARTS.get(part, part)
