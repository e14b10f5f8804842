#!/usr/bin/env bash
# The commands behind the published numbers, by the page where they stand.
#
#   bash benchmarks/published.sh losses lambda      # some of them
#   bash benchmarks/published.sh                    # what there is, and about how long it takes
#
# Runs are kept under log/published and shared between the parts: what is there is not trained again, and what was
# cut off goes on. Full MNIST under data/ (it is downloaded otherwise). The hours are estimates for two cores with bf16
# units, half a minute an epoch; without such units it takes twice as long (docs/speed.md). What stands in docs/ and
# benchmarks/results/ and is not written there by its part is a copy of what the part writes under log/published.
set -euo pipefail
cd "$(dirname "$0")/.."
OUT=log/published
PYTHON=${PYTHON:-python}
WARP="rotation=10 scaling=0.1 shearing=0.15" # as the accurate recipe
VERSION_1="head_init=spread center_init=head center_hold=0.25 warmup=0.2" # settings of the default recipe of version 1.0

train() ( # DIRECTORY FLAGS: a run of main.py; one that is finished stays as it is
    directory=$1
    shift
    if [ -e "$directory/checkpoint.pt" ]; then
        $PYTHON main.py --resume "$directory"
    else
        $PYTHON main.py "$@" --save-dir "$directory" --overwrite
    fi
)

softmax_center() { # 0.8 h: README and docs/reproduction.md. 10 runs of 10 epochs
    $PYTHON compare.py --losses softmax center --seeds 1 2 3 4 5 --out $OUT/ten -- -d mnist
    mkdir -p docs/results/softmax_center
    cp $OUT/ten/{comparison,seeds}.md $OUT/ten/runs.csv docs/results/softmax_center
}

losses() { # 1.5 h: docs/reproduction/losses.md. 18 runs of 10 epochs, 10 of them those of `softmax_center`
    softmax_center
    $PYTHON compare.py --losses arcface cosface --seeds 1 2 3 --out $OUT/ten -- -d mnist
    $PYTHON compare.py --losses arcface+center --seeds 1 2 --out $OUT/ten -- -d mnist
    $PYTHON compare.py --runs $OUT/ten/runs/{softmax,center,arcface,cosface,arcface+center}-[1-5] --out docs/results/losses
}

lambda() { # 1.3 h: docs/reproduction/lambda_and_alpha.md, and the figure that heads the README. 16 runs of 10 epochs, 10 of them those of `softmax_center`
    softmax_center # first: other parts name its runs
    $PYTHON compare.py --weights-cent 0 0.01 0.1 1 --seeds 1 2 3 --out $OUT/ten -- -d mnist
    cp $OUT/ten/{comparison.md,runs.csv,lambda_sweep.png,curve.png} docs/results/lambda
    $PYTHON compare.py --weights-cent 0 0.1 1 --out $OUT/ten -- -d mnist
    cp $OUT/ten/comparison.png docs/figures/softmax_vs_center.png
}

choose() { # 1.4 h: docs/reproduction/accurate.md: settings held against each other on digits held out of training; prints the errors. 5 runs of 20 epochs, 12 of 10
    length="-d mnist --hold-out 5000 --eval-freq 100 --max-epoch 20 --set $VERSION_1"
    train $OUT/choose/warped $length --set $WARP
    train $OUT/choose/warped-more $length --set rotation=15 scaling=0.15 shearing=0.2 shift=2
    train $OUT/choose/lambda-0.01 $length --set $WARP --weight-cent 0.01
    train $OUT/choose/decay-1e-4 $length --set $WARP weight_decay=1e-4
    train $OUT/choose/cosface $length --head cosface --weight-cent 1 --set center_hold=1 $WARP
    $PYTHON benchmarks/score.py held-out $OUT/choose/*
    for seed in 1 2; do
        length="-d mnist --hold-out 20000 --eval-freq 100 --max-epoch 10 --seed $seed --set $VERSION_1"
        for order in labels similar; do
            train $OUT/order/softmax-$order-$seed $length --set $WARP class_order=$order
            train $OUT/order/cosface-held-$order-$seed $length --head cosface --weight-cent 1 --set $WARP center_hold=1 class_order=$order
        done
        train $OUT/order/cosface-learned-$seed $length --head cosface --weight-cent 0.1 --set $WARP
        train $OUT/order/cosface-$seed $length --head cosface --set $WARP
    done
    $PYTHON benchmarks/score.py held-out $OUT/order/*
}

accurate() { # 7 h: docs/reproduction/accurate.md. 5 runs of 30 epochs, and 15 of its length and warping with other losses
    for seed in 1 2 3 4 5; do
        train $OUT/accurate/runs/accurate-$seed -d mnist --recipe accurate --eval-freq 100 --seed $seed
    done
    length="-d mnist --max-epoch 30 --eval-freq 100 --set $WARP"
    for seed in 1 2 3 4 5; do
        train $OUT/accurate/runs/center-$seed --seed $seed $length
        train $OUT/accurate/runs/softmax-$seed --weight-cent 0 --seed $seed $length
        train $OUT/accurate/runs/cosface-$seed --head cosface --seed $seed $length
    done
    $PYTHON compare.py --runs $OUT/accurate/runs/{softmax,center,cosface,accurate}-[1-5] --out $OUT/accurate-all
    cp $OUT/accurate-all/{comparison.png,runs.csv,seeds.md} docs/results/accurate
}

film() { # 0.1 h: README: docs/figures/learning.gif. 2 runs of 2 epochs
    $PYTHON compare.py --animate --out $OUT/film -- -d mnist --max-epoch 2
    cp $OUT/film/animation.gif docs/figures/learning.gif
}

open_set() { # 0.5 h: docs/reproduction/open_set.md. 10 runs of 10 epochs on six digits
    $PYTHON compare.py --open-set --out $OUT/open-set -- -d mnist
    cp $OUT/open-set/{open_set.{png,md,csv},open_set_runs.csv,unseen.{md,csv}} docs/results/open_set
}

tried() { # 1.3 h: docs/reproduction/ablation.md: unseen digits with the recipe of version 1.0, warped. 10 runs of 10 epochs and 5 of 30 on six digits
    $PYTHON compare.py --open-set --losses softmax --out $OUT/open-set-warped -- -d mnist --set $VERSION_1 $WARP
    $PYTHON compare.py --open-set --losses softmax --out $OUT/open-set-long -- -d mnist --max-epoch 30 --set $VERSION_1 $WARP
    $PYTHON compare.py --open-set --losses center --out $OUT/open-set-accurate -- -d mnist --recipe accurate --max-epoch 10
    $PYTHON compare.py --runs $OUT/open-set-accurate/runs/*-split[1-5]-1 $OUT/open-set-{warped,long}/runs/*-split[1-5]-1 --out $OUT/open-set-tried
    for kind in md csv; do cp $OUT/open-set-tried/open_set.$kind docs/results/tried; done
    $PYTHON benchmarks/score.py unseen $OUT/open-set-warped/runs/softmax-split[1-5]-1 > docs/results/tried/by_digit.md
    $PYTHON benchmarks/score.py unseen $OUT/open-set-long/runs/softmax-split[1-5]-1 > docs/results/tried/by_digit_long.md
    $PYTHON benchmarks/score.py unseen --views $OUT/open-set-long/runs/softmax-split[1-5]-1 > docs/results/tried/by_digit_views.md
}

letters() { # minutes: docs/reproduction/open_set.md: runs of `softmax_center`; notMNIST under data/notMNIST
    $PYTHON compare.py --runs $OUT/ten/runs/{softmax,center}-[1-5] --unknowns data/notMNIST fashion-mnist --out $OUT/letters
    cp $OUT/letters/{open_set.{csv,md,png},open_set_runs.csv,unseen.{csv,md,png}} docs/results/letters
}

reference() { # 0.5 h: docs/reproduction/copied_settings.md. 30 epochs
    if [ ! -e $OUT/reference-1/checkpoint.pt ]; then
        $PYTHON main.py -d mnist --recipe reference --precision bf16 --convolutions direct --stop-after 30 --save-dir $OUT/reference-1 --overwrite
    elif [ "$(wc -l < $OUT/reference-1/epochs.csv)" -le 30 ]; then # and a line of titles
        $PYTHON main.py --resume $OUT/reference-1 --stop-after 30
    fi
    cp $OUT/reference-1/epochs.csv docs/results/reference
}

arithmetic() { # 0.4 h: docs/speed.md: what bf16 and the frequency domain cost in accuracy. 15 runs of 2 epochs
    $PYTHON compare.py --seeds 1 2 3 4 5 --out $OUT/arithmetic --variants "default: " \
        "direct convolutions: --convolutions direct" "float32: --precision fp32" -- -d mnist --max-epoch 2
    mkdir -p docs/results/arithmetic
    cp $OUT/arithmetic/{comparison,seeds}.md $OUT/arithmetic/runs.csv docs/results/arithmetic
}

departures() { # 0.7 h: docs/reproduction/ablation.md: parts of the recipe of version 1.0 taken away one at a time. 30 runs of 2 epochs, 6 that fail
    all="head_init=xavier center_init=normal head_bias=true feature_prelu=true feature_lr_factor=1 center_hold=0 warmup=0 shift=0"
    $PYTHON compare.py --seeds 1 2 3 --out $OUT/departures --variants "version 1.0: " \
        "start anywhere: --set head_init=xavier center_init=normal" "bias: --set head_bias=true" \
        "PReLU on the features: --set feature_prelu=true" "feature layer at the full rate: --set feature_lr_factor=1" \
        "centers not held: --set center_hold=0" "no clipping: --set clip=none" "no warm-up: --set warmup=0" \
        "no shift: --set shift=0" "all of them: --set clip=none $all" "all of them but clipping: --set $all" \
        -- -d mnist --max-epoch 2 --set $VERSION_1 || true # the runs without clipping fail, and compare.py says so
    cp $OUT/departures/{seeds.md,runs.csv} docs/results/departures
    for seed in 1 2 3; do
        cp $OUT/departures/runs/center-no-clipping-$seed/batches.csv docs/results/departures/no_clipping_$seed.csv
    done
}

needed() { # 0.3 h: docs/reproduction/ablation.md: two parts taken away from the default recipe, one at a time. 10 runs of 2 epochs, 5 that fail
    $PYTHON compare.py --seeds 1 2 3 4 5 --out $OUT/needed --variants "default: " \
        "feature layer at the full rate: --set feature_lr_factor=1" "no clipping: --set clip=none" \
        -- -d mnist --max-epoch 2 || true # the runs without clipping fail
    mkdir -p docs/results/needed
    cp $OUT/needed/{seeds.md,runs.csv} docs/results/needed
    for seed in 1 2 3 4 5; do
        cp $OUT/needed/runs/center-no-clipping-$seed/batches.csv docs/results/needed/no_clipping_$seed.csv
    done
}

recipe() { # 2.5 h: docs/reproduction/ablation.md: parts of the recipe of version 1.0 taken away together. 30 runs of 10 epochs, 10 of them those of `softmax_center`
    softmax_center # first: other parts name its runs
    $PYTHON compare.py --seeds 1 2 3 4 5 --out $OUT/recipe --variants "version 1.0: --set $VERSION_1" \
        "random start, no hold: --set warmup=0.2" "and no warm-up, the default: " \
        "clipping and slow features alone: --set shift=0 feature_prelu=true" -- -d mnist
    cp $OUT/recipe/{comparison,seeds}.md $OUT/recipe/{runs.csv,comparison.png} docs/results/recipe
    $PYTHON compare.py --seeds 1 2 3 4 5 --out $OUT/recipe-alone --variants "default: " \
        "clipping and slow feature layer alone: --set shift=0 feature_prelu=true head_bias=true" -- -d mnist
    for file in seeds.md runs.csv; do cp $OUT/recipe-alone/$file docs/results/recipe/alone_$file; done
}

robust() { # 0.5 h: docs/reproduction/ablation.md: the default recipe and its predecessors on the 5,000 digits. 56 runs of half a minute
    $PYTHON compare.py --weights-cent 0 0.01 0.1 1 --seeds 1 2 3 4 5 6 7 8 --out $OUT/robust -- -d mnist5k
    mkdir -p docs/results/robust
    cp $OUT/robust/{comparison.md,seeds.md,runs.csv,curve.png} docs/results/robust
    $PYTHON compare.py --weights-cent 1 --seeds 1 2 3 4 5 6 7 8 --out $OUT/lambda-1 --variants "default: " \
        "warm-up: --set warmup=0.2" "circle: --set head_init=spread center_init=head" "version 1.0: --set $VERSION_1" -- -d mnist5k
    for file in seeds.md runs.csv; do cp $OUT/lambda-1/$file docs/results/robust/lambda_1_$file; done
}

new_classes() { # 2 h: docs/reproduction/open_set.md: how unseen classes are told from each other. 130 runs of 2 epochs on six digits
    mkdir -p docs/results/new_classes
    for features in 2 64; do
        $PYTHON compare.py --open-set --unknowns data/notMNIST --losses softmax center cosface cosface+center \
            --seeds 1 2 3 --out $OUT/new-$features -- -d mnist --max-epoch 2 --feat-dim $features
        for kind in md csv png; do cp $OUT/new-$features/unseen.$kind docs/results/new_classes/${features}_features.$kind; done
    done
    $PYTHON compare.py --open-set --unknowns data/notMNIST --weights-cent 0 0.01 --seeds 2 3 \
        --out $OUT/new-64-lambda -- -d mnist --max-epoch 2 --feat-dim 64
    for kind in md csv; do cp $OUT/new-64-lambda/unseen.$kind docs/results/new_classes/64_features_lambda_0.01.$kind; done
}

curves() { # 0.6 h: docs/reproduction/lambda_and_alpha.md: α and λ on six digits, with the four unseen ones. 33 runs of 2 epochs
    six="-d mnist --max-epoch 2 --known-classes 2 4 5 9 8 3"
    alphas=()
    for alpha in 0.5 0.01 0.1 0.25 0.75 1; do alphas+=("α = $alpha: --lr-cent $alpha"); done
    $PYTHON compare.py --losses center --seeds 1 2 3 --out $OUT/alpha --variants "${alphas[@]}" -- $six
    $PYTHON compare.py --weights-cent 0 1e-4 1e-3 1e-2 0.1 1 --seeds 1 2 3 --out $OUT/lambda-six -- $six
    for which in alpha lambda-six; do
        mkdir -p docs/results/$which
        cp $OUT/$which/{comparison.md,runs.csv,curve.png,unseen.md,unseen_curve.png} docs/results/$which
    done
}

paper() { # 5 h: docs/reproduction/paper_settings.md. 17 runs of 22 epochs, 2 of 26, and 1 that fails
    recipe="-d mnist --recipe paper --precision bf16"
    split="--lr-cent 0.5 --set momentum_cent=0 center_schedule=false --hold-out 10000"
    $PYTHON compare.py --weights-cent 0 1 --seeds 1 2 3 4 --out $OUT/paper -- $recipe
    $PYTHON compare.py --weights-cent 0 0.001 0.01 0.1 1 --seeds 1 2 3 --out $OUT/paper -- $recipe
    cp $OUT/paper/lambda_sweep.png docs/results/paper
    $PYTHON compare.py --runs $OUT/paper/runs/* --out $OUT/paper-all
    cp $OUT/paper-all/{comparison.md,seeds.md,runs.csv} docs/results/paper
    $PYTHON compare.py --seeds 1 2 3 --out $OUT/paper-split --variants "α = 0.5 and 50,000 images: $split" \
        -- $recipe || true # seed 1 fails, and compare.py says so
    cp $OUT/paper-split/runs.csv docs/results/paper/split.csv
    cp $OUT/paper-split/runs/center-0.5-and-50-000-images-1/batches.csv docs/results/paper/split_1_batches.csv
    $PYTHON compare.py --runs $OUT/paper/runs/center-{0,0.01}-[12] --out $OUT/paper-two
    cp $OUT/paper-two/comparison.png docs/results/paper
}

lengths() { # 0.2 h: docs/speed.md: accuracy after runs of 1 and 2 epochs. 10 runs
    $PYTHON compare.py --seeds 1 2 3 4 5 --out $OUT/lengths \
        --variants "1 epoch: --max-epoch 1" "2 epochs: --max-epoch 2" -- -d mnist
}

fashion() { # 0.8 h: docs/reproduction/losses.md: Fashion-MNIST. 10 runs of 10 epochs
    $PYTHON compare.py --losses softmax center --seeds 1 2 3 4 5 --out $OUT/fashion -- -d fashion-mnist
    mkdir -p docs/results/fashion
    cp $OUT/fashion/{comparison,seeds}.md $OUT/fashion/{runs.csv,comparison.png} docs/results/fashion
}

digits() { # 0.2 h: docs/predicting.md: how predict.py does with the network that comes with the code; notMNIST under data/notMNIST
    $PYTHON benchmarks/predict.py > benchmarks/results/predict.txt
}

shipped() { # 0.2 h: models/shipped, docs/draw.html. 2 runs of 10 epochs
    $PYTHON compare.py --losses softmax center --out $OUT/shipped -- -d mnist --hold-out 1000
    for loss in softmax center; do $PYTHON benchmarks/ship.py $OUT/shipped/runs/$loss-1 models/shipped/$loss; done
    $PYTHON predict.py --page docs/draw.html
}

centers() { # 0.3 h: docs/reproduction/losses.md: the rate and momentum of the centers. 20 runs of the 5,000 digits
    $PYTHON compare.py --seeds 1 2 3 4 5 --out $OUT/centers --variants "default: " \
        "constant rate: --set center_schedule=false" "rate falls to 0: --set center_floor=0" \
        "momentum 0.9: --set momentum_cent=0.9" -- -d mnist5k
    mkdir -p docs/results/centers
    cp $OUT/centers/{comparison,seeds}.md $OUT/centers/runs.csv docs/results/centers
}

questions() { # 0.5 h: docs/using_center_loss.md, "Questions": 2,048 features, batches with fewer samples than classes, and λ = 200. 17 runs of the 5,000 digits
    $PYTHON compare.py --weights-cent 0 0.0001 0.1 --seeds 1 2 3 --out $OUT/questions/2048 -- -d mnist5k --feat-dim 2048
    for file in seeds.md runs.csv; do cp $OUT/questions/2048/$file docs/results/questions/2048_$file; done
    $PYTHON compare.py --losses softmax center --seeds 1 2 3 --out $OUT/questions/batch -- -d mnist5k --batch-size 8
    for file in seeds.md runs.csv; do cp $OUT/questions/batch/$file docs/results/questions/batch_$file; done
    train $OUT/questions/lambda-200 -d mnist5k --weight-cent 200
    cp $OUT/questions/lambda-200/epochs.csv docs/results/questions/lambda_200_epochs.csv
    train $OUT/questions/lambda-200-unclipped -d mnist5k --weight-cent 200 --set clip=none || true # it fails, and says why
    cp $OUT/questions/lambda-200-unclipped/batches.csv docs/results/questions/lambda_200_unclipped_batches.csv
}

arcface() { # 0.1 h: docs/reproduction/losses.md. 4 runs of a minute or two
    train $OUT/arcface/learned-0.1 -d mnist5k --head arcface --weight-cent 0.1
    for weight in 0.1 1 3; do
        train $OUT/arcface/held-$weight -d mnist5k --head arcface --weight-cent $weight --set head_init=spread center_init=head center_hold=1
    done
    $PYTHON compare.py --runs $OUT/arcface/learned-0.1 $OUT/arcface/held-0.1 $OUT/arcface/held-1 $OUT/arcface/held-3 --out docs/results/arcface
}

speed() { # 2 h: docs/speed.md and docs/using_center_loss.md: on a quiet machine
    avx2="ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2"
    $PYTHON benchmarks/train.py --images 2560 --rounds 8 --workers 2 --variant="--convolutions direct" --variant="--precision fp32" --variant="--precision fp32 --convolutions direct" > benchmarks/results/train_cpu.txt
    env $avx2 $PYTHON benchmarks/train.py --images 2560 --rounds 8 --workers 2 --variant="--convolutions direct" -- --precision fp32 > benchmarks/results/train_avx2.txt
    $PYTHON benchmarks/command.py > benchmarks/results/command_cpu.txt
    $PYTHON benchmarks/center_loss.py --rounds 5 > benchmarks/results/center_loss.txt
    $PYTHON benchmarks/sharing.py > benchmarks/results/sharing.md
    $PYTHON benchmarks/weight.py > benchmarks/results/weight.md
}

if [ $# = 0 ]; then
    grep -E '^[a-z_]+\(\) \{' "$0" | sed -E 's/\(\) \{ #/:/'
fi
for part in "$@"; do
    $part
done
