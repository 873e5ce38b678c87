"""What a card reaches on the shapes that MiT_XL_2 and sd-vae spend their time in, by PyTorch: four products,
seven convolutions, attention and a copy. Run by gpu-first-run.sh where PyTorch is."""
import torch


def milliseconds(run, repeats=20):
    for _ in range(3):
        run()
    torch.cuda.synchronize()
    start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(repeats):
        run()
    stop.record()
    torch.cuda.synchronize()
    return start.elapsed_time(stop) / repeats


def report(name, ms, flops=0.0, bytes_=0.0):
    rate = "%7.0f TFLOP/s" % (flops / ms / 1e9) if flops else "%7.0f GB/s" % (bytes_ / ms / 1e6)
    print("%-44s %9.3f ms %s" % (name, ms, rate))


def main():
    bf16 = dict(device="cuda", dtype=torch.bfloat16)
    rows = 64 * 276
    print(torch.cuda.get_device_name(), "PyTorch", torch.__version__)
    for n, k in ((3072, 1024), (1024, 1024), (5472, 1024), (1024, 2736)):
        x, w = torch.randn(rows, k, **bf16), torch.randn(n, k, **bf16)
        report("product %d x %d x %d" % (rows, n, k), milliseconds(lambda: x @ w.t()), 2.0 * rows * n * k)
    torch.backends.cudnn.benchmark = True
    for c, out, side in ((512, 512, 32), (512, 512, 64), (512, 512, 128), (512, 256, 128), (256, 256, 256),
                         (256, 128, 256), (128, 128, 256)):
        x = torch.randn(8, c, side, side, **bf16).to(memory_format=torch.channels_last)
        w = torch.randn(out, c, 3, 3, **bf16).to(memory_format=torch.channels_last)
        ms = milliseconds(lambda: torch.nn.functional.conv2d(x, w, padding=1))
        report("convolution 8 x %d to %d at %d" % (c, out, side), ms, 2.0 * 8 * side * side * c * out * 9)
    q, k, v = (torch.randn(64, 16, 276, 64, **bf16) for _ in range(3))
    ms = milliseconds(lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v))
    report("attention 64 x 16 x 276 x 64", ms, 4.0 * 64 * 16 * 276 * 276 * 64)
    x, y = torch.empty(1 << 28, device="cuda", dtype=torch.uint8), torch.empty(1 << 28, device="cuda", dtype=torch.uint8)
    report("copy of 256 MiB", milliseconds(lambda: y.copy_(x)), bytes_=2.0 * (1 << 28))


if __name__ == "__main__":
    main()
