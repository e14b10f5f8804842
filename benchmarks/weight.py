"""Where λ starts: three networks, four feature dimensions, seeds 1 to 3; 200 steps of the 5,000 digits, batches of 64.

    nice -n 5 python benchmarks/weight.py > benchmarks/results/weight.md

ResNet and ViT learn by AdamW, the MLP by SGD; `update="paper"`, α = 0.5. At step 50 of softmax alone two rules are
read: λ = cross-entropy / loss, and λ = the ratio of the gradients' norms at the features. "auto" goes on from there
by the first. "change" is the test accuracy in points, "spread" the compactness by softmax alone's with that seed, and
"lost" counts the runs with 3 points less.
"""

import sys
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.resnet import BasicBlock
from torchvision.ops import MLP

import datasets
from analysis.metrics import compactness
from benchmarks.timing import machine
from center_loss import CenterLoss

PLACE, RULES = ["start", "network", "D"], ["cross-entropy / loss", "ratio of gradients"]


def resnet(dim):
    layers = [nn.Conv2d(1, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), BasicBlock(8, 8)]
    for wide in (16, 32):
        beside = nn.Sequential(nn.Conv2d(wide // 2, wide, 1, 2, bias=False), nn.BatchNorm2d(wide))
        layers.append(BasicBlock(wide // 2, wide, 2, beside))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, dim))


class ViT(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.patches, self.position = nn.Conv2d(1, 48, 7, 7), nn.Parameter(0.02 * torch.randn(16, 48))
        blocks = [nn.TransformerEncoderLayer(48, 4, 96, 0.0, F.gelu, batch_first=True, norm_first=True) for _ in "12"]
        self.blocks, self.out = nn.Sequential(*blocks, nn.LayerNorm(48)), nn.Linear(48, dim)

    def forward(self, images):
        return self.out(self.blocks(self.patches(images).flatten(2).transpose(1, 2) + self.position).mean(1))


def run(start, network, dim, seed, weight, images, labels, test, truth):
    torch.manual_seed(seed)
    make = {"ResNet": resnet, "ViT": ViT, "MLP": lambda dim: nn.Sequential(nn.Flatten(), MLP(784, [256, 256, dim]))}
    model, head = make[network](dim), nn.Linear(dim, 10)
    center_loss = CenterLoss(10, dim, update="paper", init=start)
    center_loss.weight = 0 if weight == "auto" else weight
    optimizer_center = torch.optim.SGD(center_loss.parameters(), lr=0.5)
    optimizer = torch.optim.AdamW([*model.parameters(), *head.parameters()])
    if network == "MLP":
        optimizer = torch.optim.SGD([*model.parameters(), *head.parameters()], 0.05, 0.9, weight_decay=5e-4)
    for step in range(200):
        index = torch.randint(0, len(images), (64,))
        features = model(images[index])
        xent, value = F.cross_entropy(head(features), labels[index]), center_loss(features, labels[index])
        if step == 50:
            (push,) = torch.autograd.grad(xent, features, retain_graph=True)
            pull = (features - center_loss.centers[labels[index]]).detach() / 64
            rules = float(xent.detach() / center_loss.last_value), float(push.norm() / pull.norm())
            center_loss.weight = rules[0] if weight == "auto" else weight
        optimizer.zero_grad()
        optimizer_center.zero_grad()
        (xent + value).backward()
        optimizer.step()
        optimizer_center.step()
    features = model.eval()(test).detach()
    right = 100 * (head(features).argmax(1) == truth).float().mean().item()
    return right, compactness(features.nan_to_num().numpy(), truth.numpy()), *rules


def report(runs):
    alone = runs[runs["λ"] == 0].drop(columns="λ")
    runs = runs.merge(alone, on=[*PLACE, "seed"], suffixes=("", " alone"))
    runs["change"] = runs["accuracy"] - runs["accuracy alone"]
    runs["spread"] = runs["compactness"] / runs["compactness alone"]
    table = alone.groupby(PLACE, sort=False)[["accuracy", *RULES]]
    table = table.agg(lambda seeds: f"{seeds.min():.3g} to {seeds.max():.3g}")
    print(f"\nSoftmax alone, lowest to highest seed:\n\n{table.reset_index().to_markdown(index=False)}")
    for name in ("change", "spread"):
        table = runs.pivot_table(name, PLACE, "λ", sort=False).drop(columns=0).round(2).reset_index()
        print(f"\n{name}, mean of the seeds, by λ:\n\n{table.to_markdown(index=False)}")
    runs = runs[~runs["λ"].isin([0, "auto"])].assign(dimensions=runs["D"].map(lambda dim: "2" if dim == 2 else "more"))
    names = ["to 0.03", "0.03 to 0.1", "0.1 to 0.3", "0.3 to 1", "1 to 3", "above 3"]
    for rule in RULES:
        share = (runs["λ"] / runs[f"{rule} alone"]).astype(float)
        groups = runs.assign(λ=pd.cut(share, [0, 0.03, 0.1, 0.3, 1, 3, 1e9], labels=names))
        groups = groups.groupby(["dimensions", "λ"], observed=True)
        table = groups["change"].agg(runs="size", change="mean", lost=lambda change: (change < -3).sum())
        table = table.assign(spread=groups["spread"].median()).round(2).reset_index()
        print(f"\nBy λ as a multiple of {rule}:\n\n{table.to_markdown(index=False)}")


def main():
    torch.set_num_threads(1)
    data = datasets.load("mnist5k", Path("data"), notify=lambda line: None)
    images, test = (some[:, None] / 127.5 - 1 for some in (data.train_images, data.test_images))
    weights = (0, 1e-4, 1e-3, 1e-2, 1e-1, 1, "auto")
    cells = product(("normal", "zeros"), ("ResNet", "ViT", "MLP"), (2, 128, 512, 2048), (1, 2, 3), weights)
    cells = [cell for cell in cells if cell[0] == "normal" or cell[1] == "MLP"]
    rows = [(*cell, *run(*cell, images, data.train_labels, test, data.test_labels)) for cell in cells]
    print(f"{machine()}\n{__doc__}")
    report(pd.DataFrame(rows, columns=[*PLACE, "seed", "λ", "accuracy", "compactness", *RULES]))


if __name__ == "__main__":
    main()
