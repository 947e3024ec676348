"""Every knob of lora_whisper: its type and range, its default, and what it does in which unit.

    types          what settings of several subjects are made of
    adapter        the base checkpoint, its quantization, the adapter
    data           sources of speech, windows, augmentation
    training       optimizer, length and portions of a run, trackers
    evaluation     decoding, test sets, conditions
    train          the commands train, check, plan and search
    models         the commands evaluate, merge, export, push and report
    transcription  the commands transcribe, record and demo

`--help` prints these sentences, and a wrong value is answered with them. `conf/` has the options of
groups that are chosen by name, such as `adapter=dora`, each as what differs from the defaults here.
Neither torch nor transformers is imported, so that a typo is answered at once.
"""

from lora_whisper.config.adapter import (
    MAX_ALPHA,
    MAX_RANK,
    NOT_QUANTIZED,
    UNSUPPORTED,
    AdapterConfig,
    ModelConfig,
    QuantizationConfig,
    in_own_dtype,
)
from lora_whisper.config.data import (
    AugmentationConfig,
    ColumnsConfig,
    DataConfig,
    GainConfig,
    MixConfig,
    NoiseConfig,
    Padding,
    ReverberationConfig,
    Source,
    SourceConfig,
    SpecAugmentConfig,
    SpeedConfig,
    TelephoneConfig,
    TrimmedConfig,
)
from lora_whisper.config.evaluation import (
    CLEAN,
    DECODING,
    Condition,
    EvaluationConfig,
    RescoringConfig,
    TestDataConfig,
    TestSetConfig,
)
from lora_whisper.config.models import (
    EXPORT_DTYPES,
    EvaluateConfig,
    ExportConfig,
    Format,
    MergeConfig,
    ModelsCommandConfig,
    ParityConfig,
    PartConfig,
    PushConfig,
    ReportConfig,
)
from lora_whisper.config.train import (
    CheckConfig,
    LabelsConfig,
    PlanConfig,
    SearchConfig,
    SearchingConfig,
    SpaceConfig,
    TrainConfig,
    memory_bytes,
)
from lora_whisper.config.training import (
    GLOBAL_BATCH,
    Averaged,
    OptimizerConfig,
    TrackingConfig,
    TrainingConfig,
)
from lora_whisper.config.transcription import (
    DemoConfig,
    LoadedModelsConfig,
    ReadingConfig,
    RecordConfig,
    ServedConfig,
    TextFormat,
    TranscribeConfig,
    TranscriptionConfig,
    TranscriptsConfig,
    TriedConfig,
)
from lora_whisper.config.types import SPLITS, USUAL_SEED, Dtype, Precision, Split, Targets, Task
