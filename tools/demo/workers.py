"""Data-parallel workers of one thread each, which meet once a step to average their gradients.

On a machine that is busy with other work this goes faster than one process of several threads, which has to wait for
its slowest thread hundreds of times a step. Rank 0 is the command the user started; it starts the others with the same
arguments and `--rank N`, so that they carry the same name.
"""
import datetime
import os
import subprocess
import sys

import torch
import torch.distributed as dist

import checkpoint


class Workers:
    def __init__(self, args):
        self.rank, self.size, self.others, self.file = args.rank, args.workers, [], None
        if self.size < 2:
            return
        torch.set_num_threads(1)
        sync = args.sync or os.path.join(args.workdir, f"sync.{os.getpid()}")
        if self.rank == 0:
            self.file = sync
            if os.path.exists(sync):
                os.remove(sync)
            for r in range(1, self.size):
                self.others.append(subprocess.Popen([sys.executable, *sys.argv, "--rank", str(r), "--sync", sync]))
        dist.init_process_group("gloo", init_method="file://" + os.path.abspath(sync), rank=self.rank,
                                world_size=self.size, timeout=datetime.timedelta(days=2))

    def average(self, params, lr):
        """Averages the gradients of all workers in place. Returns whether one of them has been asked to stop, and
        rank 0's learning rate, which may depend on its clock."""
        if self.size < 2:
            return checkpoint.stop_asked, lr
        flat = torch.cat([p.grad.reshape(-1) for p in params] +
                         [torch.tensor([float(checkpoint.stop_asked), lr if self.rank == 0 else 0.0])])
        dist.all_reduce(flat)
        flat[:-2] /= self.size
        torch._foreach_copy_([p.grad for p in params],
                             [g.view_as(p) for p, g in zip(params, flat[:-2].split([p.numel() for p in params]))])
        return flat[-2].item() > 0, flat[-1].item()

    def finish(self):
        for p in self.others:
            p.wait()
        if self.file and os.path.exists(self.file):
            os.remove(self.file)
