from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Claim(_message.Message):
    __slots__ = ("node", "vmid", "epoch", "generation")
    NODE_FIELD_NUMBER: _ClassVar[int]
    VMID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    node: str
    vmid: int
    epoch: int
    generation: int
    def __init__(self, node: _Optional[str] = ..., vmid: _Optional[int] = ..., epoch: _Optional[int] = ..., generation: _Optional[int] = ...) -> None: ...

class Request(_message.Message):
    __slots__ = ("claim", "inventory", "send", "commit", "abort", "aside", "hello")
    CLAIM_FIELD_NUMBER: _ClassVar[int]
    INVENTORY_FIELD_NUMBER: _ClassVar[int]
    SEND_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    ABORT_FIELD_NUMBER: _ClassVar[int]
    ASIDE_FIELD_NUMBER: _ClassVar[int]
    HELLO_FIELD_NUMBER: _ClassVar[int]
    claim: Claim
    inventory: InventoryRequest
    send: SendRequest
    commit: CommitRequest
    abort: AbortRequest
    aside: AsideRequest
    hello: HelloRequest
    def __init__(self, claim: _Optional[_Union[Claim, _Mapping]] = ..., inventory: _Optional[_Union[InventoryRequest, _Mapping]] = ..., send: _Optional[_Union[SendRequest, _Mapping]] = ..., commit: _Optional[_Union[CommitRequest, _Mapping]] = ..., abort: _Optional[_Union[AbortRequest, _Mapping]] = ..., aside: _Optional[_Union[AsideRequest, _Mapping]] = ..., hello: _Optional[_Union[HelloRequest, _Mapping]] = ...) -> None: ...

class Answer(_message.Message):
    __slots__ = ("refused", "reason", "inventory")
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    INVENTORY_FIELD_NUMBER: _ClassVar[int]
    refused: str
    reason: str
    inventory: Inventory
    def __init__(self, refused: _Optional[str] = ..., reason: _Optional[str] = ..., inventory: _Optional[_Union[Inventory, _Mapping]] = ...) -> None: ...

class HelloRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class InventoryRequest(_message.Message):
    __slots__ = ("datasets",)
    DATASETS_FIELD_NUMBER: _ClassVar[int]
    datasets: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, datasets: _Optional[_Iterable[str]] = ...) -> None: ...

class Inventory(_message.Message):
    __slots__ = ("epoch", "points", "volumes")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    POINTS_FIELD_NUMBER: _ClassVar[int]
    VOLUMES_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    points: _containers.RepeatedScalarFieldContainer[bytes]
    volumes: _containers.RepeatedCompositeFieldContainer[Volume]
    def __init__(self, epoch: _Optional[int] = ..., points: _Optional[_Iterable[bytes]] = ..., volumes: _Optional[_Iterable[_Union[Volume, _Mapping]]] = ...) -> None: ...

class Volume(_message.Message):
    __slots__ = ("dataset", "ours", "guids", "written", "resume_token", "resume_guid", "resume_base")
    DATASET_FIELD_NUMBER: _ClassVar[int]
    OURS_FIELD_NUMBER: _ClassVar[int]
    GUIDS_FIELD_NUMBER: _ClassVar[int]
    WRITTEN_FIELD_NUMBER: _ClassVar[int]
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    RESUME_GUID_FIELD_NUMBER: _ClassVar[int]
    RESUME_BASE_FIELD_NUMBER: _ClassVar[int]
    dataset: str
    ours: bool
    guids: _containers.RepeatedScalarFieldContainer[int]
    written: int
    resume_token: str
    resume_guid: int
    resume_base: int
    def __init__(self, dataset: _Optional[str] = ..., ours: bool = ..., guids: _Optional[_Iterable[int]] = ..., written: _Optional[int] = ..., resume_token: _Optional[str] = ..., resume_guid: _Optional[int] = ..., resume_base: _Optional[int] = ...) -> None: ...

class SendRequest(_message.Message):
    __slots__ = ("disk", "dataset", "snapshot", "guid", "base_guid", "resume", "kind")
    DISK_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    GUID_FIELD_NUMBER: _ClassVar[int]
    BASE_GUID_FIELD_NUMBER: _ClassVar[int]
    RESUME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    disk: str
    dataset: str
    snapshot: str
    guid: int
    base_guid: int
    resume: bool
    kind: str
    def __init__(self, disk: _Optional[str] = ..., dataset: _Optional[str] = ..., snapshot: _Optional[str] = ..., guid: _Optional[int] = ..., base_guid: _Optional[int] = ..., resume: bool = ..., kind: _Optional[str] = ...) -> None: ...

class Result(_message.Message):
    __slots__ = ("failed", "guid")
    FAILED_FIELD_NUMBER: _ClassVar[int]
    GUID_FIELD_NUMBER: _ClassVar[int]
    failed: str
    guid: int
    def __init__(self, failed: _Optional[str] = ..., guid: _Optional[int] = ...) -> None: ...

class CommitRequest(_message.Message):
    __slots__ = ("point", "definition", "properties")
    class PropertiesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Properties
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Properties, _Mapping]] = ...) -> None: ...
    POINT_FIELD_NUMBER: _ClassVar[int]
    DEFINITION_FIELD_NUMBER: _ClassVar[int]
    PROPERTIES_FIELD_NUMBER: _ClassVar[int]
    point: bytes
    definition: str
    properties: _containers.MessageMap[str, Properties]
    def __init__(self, point: _Optional[bytes] = ..., definition: _Optional[str] = ..., properties: _Optional[_Mapping[str, Properties]] = ...) -> None: ...

class Properties(_message.Message):
    __slots__ = ("local",)
    class LocalEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    LOCAL_FIELD_NUMBER: _ClassVar[int]
    local: _containers.ScalarMap[str, str]
    def __init__(self, local: _Optional[_Mapping[str, str]] = ...) -> None: ...

class AbortRequest(_message.Message):
    __slots__ = ("dataset", "guid")
    DATASET_FIELD_NUMBER: _ClassVar[int]
    GUID_FIELD_NUMBER: _ClassVar[int]
    dataset: str
    guid: int
    def __init__(self, dataset: _Optional[str] = ..., guid: _Optional[int] = ...) -> None: ...

class AsideRequest(_message.Message):
    __slots__ = ("dataset", "back_to")
    DATASET_FIELD_NUMBER: _ClassVar[int]
    BACK_TO_FIELD_NUMBER: _ClassVar[int]
    dataset: str
    back_to: int
    def __init__(self, dataset: _Optional[str] = ..., back_to: _Optional[int] = ...) -> None: ...
