"""The structure of an ONNX file, read with protobuf's own parser. The package `onnx` is not needed, and no tensor is loaded.

Only the fields that the checks look at are declared; names and numbers are those of onnx.proto. Texts are read as bytes, because
those of a damaged file are not always UTF-8. Like ONNX Runtime, the parser refuses messages that are nested more than 100 deep.
"""

from __future__ import annotations

import functools
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

__all__ = ["DecodeError", "parse_model"]

_MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    "Model": {
        "graph": (7, "Graph"),
        "opset_import": (8, "OperatorSet*"),
        "training_info": (20, "Anything*"),
        "functions": (25, "Anything*"),
    },
    "OperatorSet": {"domain": (1, "bytes"), "version": (2, "int64")},
    "Graph": {
        "node": (1, "Node*"),
        "initializer": (5, "Tensor*"),
        "input": (11, "Value*"),
        "output": (12, "Value*"),
        "sparse_initializer": (15, "Anything*"),
    },
    "Node": {
        "input": (1, "bytes*"),
        "output": (2, "bytes*"),
        "op_type": (4, "bytes"),
        "attribute": (5, "Attribute*"),
        "domain": (7, "bytes"),
    },
    "Attribute": {
        "name": (1, "bytes"),
        "t": (5, "Anything"),
        "g": (6, "Anything"),
        "tensors": (10, "Anything*"),
        "graphs": (11, "Anything*"),
        "tp": (14, "Anything"),
        "type_protos": (15, "Anything*"),
        "ref_attr_name": (21, "bytes"),
        "sparse_tensor": (22, "Anything"),
        "sparse_tensors": (23, "Anything*"),
    },
    "Tensor": {
        "dims": (1, "int64*"),
        "data_type": (2, "int32"),
        "float_data": (4, "float*"),
        "int32_data": (5, "int32*"),
        "int64_data": (7, "int64*"),
        "name": (8, "bytes"),
        "raw_data": (9, "bytes"),
        "double_data": (10, "double*"),
        "external_data": (13, "Entry*"),
        "data_location": (14, "int32"),
    },
    "Entry": {"key": (1, "bytes"), "value": (2, "bytes")},
    "Value": {"name": (1, "bytes"), "type": (2, "Type")},
    "Type": {"tensor_type": (1, "TensorType")},
    "TensorType": {"elem_type": (1, "int32"), "shape": (2, "Shape")},
    "Shape": {"dim": (1, "Dimension*")},
    "Dimension": {"dim_value": (1, "int64"), "dim_param": (2, "bytes")},
    "Anything": {},
}
"""Fields of each message by name, with number and type. `*` marks a repeated field."""
_FIELD = descriptor_pb2.FieldDescriptorProto
_SCALARS = {name: getattr(_FIELD, f"TYPE_{name.upper()}") for name in ("bytes", "int64", "int32", "float", "double")}


def parse_model(content: bytes) -> Any:
    """The message `ModelProto` of an ONNX file.

    Raises:
        DecodeError: the content is no protobuf message of that kind.
    """
    return _model_class().FromString(content)


@functools.cache
def _model_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="milvus_coop_onnx.proto", package="milvus_coop", syntax="proto2")
    for message, fields in _MESSAGES.items():
        described = file.message_type.add(name=message)
        for name, (number, kind) in fields.items():
            plain = kind.removesuffix("*")
            field = described.field.add(
                name=name, number=number, label=_FIELD.LABEL_OPTIONAL if plain == kind else _FIELD.LABEL_REPEATED
            )
            if plain in _SCALARS:
                field.type = _SCALARS[plain]
            else:
                field.type, field.type_name = _FIELD.TYPE_MESSAGE, f".milvus_coop.{plain}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("milvus_coop.Model"))
