"""How a GPU may compute when it serves: names of `wbdc submit --gpu`."""

CUDA_GRAPHS = "cuda-graphs"  # launches are recorded and replayed
TF32 = "tf32"  # what is computed in FP32 is rounded to TF32
GPU_JPEG = "jpeg"  # JPEGs are decoded and resized there
GPU_SWITCHES = (CUDA_GRAPHS, TF32, GPU_JPEG)
