"""The messages that a module in the TF1 Hub format may hold beside its graph.

tensorflow_hub 0.12 was the last release that shipped these messages, so they are declared here.
Their definitions: https://github.com/tensorflow/hub/tree/v0.12.0/tensorflow_hub,
`module_attachment.proto` and `image_module_info.proto`.
"""

import functools
from typing import Any

_COLLECTION = "hub_module_attachments"
_IMAGE_MODULE_INFO = "image_module_info"


def attached_image_size(meta_graph: Any) -> tuple[int, int] | None:
    """Return height and width of the images that a hub module was trained for.

    A module that takes images of any size may state them in an attached message; None where it
    does not.
    """
    from google.protobuf.message import DecodeError

    if _COLLECTION not in meta_graph.collection_def:
        return None
    attachment_class, info_class = _message_classes()
    for content in meta_graph.collection_def[_COLLECTION].bytes_list.value:
        try:
            attachment = attachment_class.FromString(content)
            if attachment.key == _IMAGE_MODULE_INFO:
                size = info_class.FromString(attachment.value).default_image_size
                return (size.height, size.width) if size.height and size.width else None
        except DecodeError:
            continue  # Only a hint, and the graph works without it.
    return None


@functools.cache
def _message_classes() -> tuple[Any, Any]:
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="hub_attachments.proto", package="tensorflow_hub", syntax="proto3"
    )
    messages = {
        "ModuleAttachment": (("key", field.TYPE_STRING, ""), ("value", field.TYPE_BYTES, "")),
        "InputSize": (("height", field.TYPE_INT32, ""), ("width", field.TYPE_INT32, "")),
        "ImageModuleInfo": (
            ("default_image_size", field.TYPE_MESSAGE, ".tensorflow_hub.InputSize"),
        ),
    }
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        for number, (field_name, kind, type_name) in enumerate(fields, start=1):
            message.field.add(
                name=field_name,
                number=number,
                type=kind,
                label=field.LABEL_OPTIONAL,
                type_name=type_name or None,
            )
    # A pool of its own, for an older tensorflow_hub beside this one declares the same names.
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    attachment, info = (
        message_factory.GetMessageClass(pool.FindMessageTypeByName(f"tensorflow_hub.{name}"))
        for name in ("ModuleAttachment", "ImageModuleInfo")
    )
    return attachment, info
