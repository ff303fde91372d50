"""What a rank imports, so that a forked one need not."""

import os

os.environ |= {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}

import bitsandbytes  # noqa: F401
import deepspeed  # noqa: F401
import peft  # noqa: F401
import torch
import transformers.models.llama.modeling_llama  # noqa: F401

import tasks.training.loop
import tasks.training.worker  # noqa: F401

torch.set_num_threads(1)
