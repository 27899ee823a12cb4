"""Which runs a comparison needs: methods whose trained stages are equal share a run."""

import copy
import dataclasses
from typing import Any

import ml_collections
from etils import epath

from lt_jax import methods
from lt_jax.core import errors, files, log
from lt_jax.run import config as config_lib
from lt_jax.run import dependencies
from lt_jax.stages import baseline
from lt_jax.stages import heads as stage_heads

GROUPS = {
    "heads": lambda: [name for name in methods.RECIPES if name in methods.HEADS],
    "losses": lambda: [name for name, recipe in methods.RECIPES.items() if "baseline" in recipe.stages[:1]],
    "contrastive": lambda: [name for name, recipe in methods.RECIPES.items() if _is_contrastive(recipe)],
}
Changes = dict[str, dict[str, Any]]  # "retrain.k=20" -> {"retrain.k": 20}
_TRAINED = ("pretrain", "baseline", "retrain", "features", "dlsa")  # stages that make a run worth sharing


@dataclasses.dataclass(frozen=True)
class Job:
    """One run of the command line.

    Attributes:
      folder: its work directory, below that of the comparison.
      config: what it runs.
      before: the job whose pretraining or frozen features it starts from, None for none.
      members: the methods that are measured in it.
    """

    folder: str
    config: ml_collections.ConfigDict
    before: "Job | None"
    members: tuple[str, ...]


def _is_contrastive(recipe: methods.Recipe) -> bool:
    """Whether a contrastive objective trains the encoder, before the classifier or beside its loss."""
    return "retrain" in recipe.stages or bool(recipe.overrides.get("baseline.contrastive"))


def names_of(text: str, config: ml_collections.ConfigDict) -> list[str]:
    """The recipes that `--methods` names, in the order of the table.

    `all` takes every recipe that the config has the blocks for; a group takes its members. Of a config that trains no
    network the methods are heads on its features.

    Raises:
      BadInput: an unknown name, or a recipe that needs blocks which the config lacks.
    """
    if stage_heads.is_alone(config):
        return _of_frozen(text, config)
    chosen: list[str] = []
    for word in _words(text):
        if word == "all":
            chosen += [name for name in methods.RECIPES if _fits(name, config)]
        elif word in GROUPS:
            chosen += [name for name in GROUPS[word]() if _fits(name, config)]
        else:
            methods.entry("RECIPES", word, "--methods")
            config_lib.apply_recipe(copy.deepcopy(config), word)
            chosen.append(word)
    if not chosen:
        raise errors.BadInput(f"--methods: expected some of {', '.join(methods.RECIPES)}, all, {', '.join(GROUPS)}")
    return [name for name in methods.RECIPES if name in chosen]


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _of_frozen(text: str, config: ml_collections.ConfigDict) -> list[str]:
    """The heads that `--methods` names, and after them the recipes that train no network either."""
    words = _words(text)
    recipes = [word for word in dict.fromkeys(words) if _is_on_frozen(word, config)]
    for word in words:
        if word in recipes:
            continue
        if word not in ("all", "heads") and word in methods.RECIPES and word not in methods.HEADS:
            raise errors.BadInput(
                f"--methods: {word} trains a network, and this config trains none, only heads; "
                "a token such as scratch trains one: configs/folder.py:scratch"
            )
        if word not in ("all", "heads"):
            methods.entry("HEADS", word, "--methods")
            if methods.name_of("HEADS", word) != word:
                raise errors.BadInput(f"--methods: expected a name, found {word!r}; options go into config.heads")
    if not words:
        raise errors.BadInput(f"--methods: expected some of {', '.join(methods.HEADS)}, all")
    return [name for name in methods.HEADS if name in words or {"all", "heads"} & set(words)] + recipes


def _is_on_frozen(name: str, config: ml_collections.ConfigDict) -> bool:
    """Whether this is a recipe, other than a head, that the config can run without training a network."""
    if name in methods.HEADS or name not in methods.RECIPES or not _fits(name, config):
        return False
    settings = copy.deepcopy(config)
    config_lib.apply_recipe(settings, name)
    return not {"pretrain", "baseline", "retrain"} & set(settings.stages)


def _fits(name: str, config: ml_collections.ConfigDict) -> bool:
    try:
        config_lib.apply_recipe(copy.deepcopy(config), name)
    except errors.BadInput:
        return False
    return True


def varied(config: ml_collections.ConfigDict, names: list[str], changes: Changes) -> list[str]:
    """The methods, each followed by those that change a setting of it: `bns_ipdpp, retrain.k=20`.

    A change that gives a run that is there already adds none, such as the value that the config has.

    Raises:
      BadInput: the config trains no network, or a key has an effect on none of the methods.
    """
    if not changes:
        return names
    if stage_heads.is_alone(config):
        raise errors.BadInput(
            "--vary: expected a config that trains a network; an option of a head is part of config.heads, as "
            "--config.heads=\"('balanced_linear(tau=0.5)',)\""
        )
    of_files = [key for change in changes.values() for key in change if key in dependencies.FILES]
    if of_files:
        raise errors.BadInput(f"--vary: all methods of a comparison share {of_files[0]}; run one comparison for each")
    every: list[str] = []
    trained: dict[str, tuple[str, ...]] = {}  # name -> what tells its run from others
    for name in names:
        for change in ("", *changes):
            varied_name = _name(name, change) if change else name
            job = _job(config, varied_name, config.seed, None, 0, _heads_beside(name, [name]), changes)
            if name in job.config.heads and name not in stage_heads.names(job.config):
                log.say(f"{varied_name}: left out, since the head does not fit this network")
                continue
            run = (job.folder, method_in(job, varied_name))
            if not change or run not in trained.values():
                trained[varied_name] = run
                every.append(varied_name)
    effective = {key for name in every for key in changes.get(change_of(name), ())}
    for key in (key for change in changes.values() for key in change):
        if key not in effective:
            raise errors.BadInput(f"--vary: {key} changes nothing in {', '.join(names)}")
    return every


def _name(recipe: str, change: str) -> str:
    return f"{recipe}, {change}"


def recipe_of(name: str) -> str:
    """The recipe, or the head, of a method that may have a changed setting."""
    return name.partition(", ")[0]


def change_of(name: str) -> str:
    """The changed setting of a method; "" for none."""
    return name.partition(", ")[2]


def title_of(name: str) -> str:
    """Display name of a method of a comparison."""
    recipe = recipe_of(name)
    title = methods.title("RECIPES" if recipe in methods.RECIPES else "HEADS", recipe)
    return _name(title, change_of(name)) if change_of(name) else title


def _heads_beside(name: str, names: list[str]) -> tuple[str, ...]:
    """Those of the methods that are heads on the baseline of method `name`: one training serves them all."""
    same = [other for other in names if change_of(other) == change_of(name) and _baseline(other) == _baseline(name)]
    return tuple(recipe_of(other) for other in same if recipe_of(other) in methods.HEADS)


def _baseline(name: str) -> dict[str, Any]:
    """The settings by which a method trains its baseline."""
    overrides = methods.RECIPES[recipe_of(name)].overrides
    return {key: value for key, value in overrides.items() if key != "heads"}


def jobs(
    config: ml_collections.ConfigDict, names: list[str], seeds: range, folds: int, changes: Changes | None = None
) -> list[Job]:
    """All runs of a comparison, a pretraining before the runs that start from it.

    Args:
      config: of one run; recipes change it.
      names: recipes, or what `varied` makes of them.
      seeds: of the runs.
      folds: of cross-validation; each method is trained once on all images and once without each fold.
      changes: those that the names have.
    """
    if stage_heads.is_alone(config):
        return _jobs_of_frozen(config, names, seeds)
    planned: dict[str, Job] = {}
    for seed in seeds:
        for fold in (None, *range(folds)):
            for name in names:
                job = _job(config, name, seed, fold, folds, _heads_beside(name, names), changes or {})
                for needed in (job.before, job):
                    if needed is not None:
                        known = planned.get(needed.folder)
                        members = dict.fromkeys((*(known.members if known else ()), *needed.members))
                        planned[needed.folder] = dataclasses.replace(needed, members=tuple(members))
    return list(planned.values())


def _jobs_of_frozen(config: ml_collections.ConfigDict, names: list[str], seeds: range) -> list[Job]:
    """One run for the features; for each seed one of all heads, which cross-validates them itself, and one a recipe."""
    extraction = copy.deepcopy(config)
    extraction.stages = ("features",)
    before = Job(_folder("features", extraction, config.seed, None), extraction, None, ())
    heads = tuple(name for name in names if name in methods.HEADS)
    planned = [before]
    for seed in seeds:
        if heads:
            settings = _of_seed(config, seed)
            texts = {methods.name_of("HEADS", text): text for text in config.heads}
            settings.heads = tuple(texts.get(name, name) for name in heads)
            planned.append(Job(_folder("heads", settings, seed, None), settings, before, heads))
        for name in names:
            if name not in heads:
                settings = _of_seed(config, seed)
                config_lib.apply_recipe(settings, name)
                planned.append(Job(_folder(name, settings, seed, None), settings, before, (name,)))
    return [dataclasses.replace(job, config=_without_report(job.config)) for job in planned]


def _of_seed(config: ml_collections.ConfigDict, seed: int) -> ml_collections.ConfigDict:
    settings = copy.deepcopy(config)
    settings.seed = seed
    return settings


def _without_report(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    config.stages = tuple(stage for stage in config.stages if stage != "report")
    return config


def _job(
    config: Any, name: str, seed: int, fold: int | None, folds: int, heads: tuple[str, ...], changes: Changes
) -> Job:
    settings = copy.deepcopy(config)
    config_lib.apply_recipe(settings, recipe_of(name))
    if change_of(name):
        settings.update_from_flattened_dict(changes[change_of(name)])
    settings.seed = seed
    if fold is not None:
        settings.data.folds = folds
        settings.data.fold = fold
    before = None
    if "pretrain" in settings.stages:
        encoder = copy.deepcopy(settings)
        encoder.stages = ("pretrain",)
        before = Job(_folder("pretrain", encoder, seed, fold), encoder, None, ())
        dropped = ("pretrain", "probe", "baseline", "heads", "report")  # trained before, or not this method's
        settings.stages = tuple(stage for stage in settings.stages if stage not in dropped)
        settings.init_from = before.folder
    else:
        settings = _without_report(settings)
        if "baseline" in settings.stages:
            settings.method = baseline.method_of(settings.baseline)
            settings.heads = heads
    stage = next(stage for stage in reversed(_TRAINED) if stage in settings.stages)
    return Job(_folder(stage, settings, seed, fold), settings, before, (name,))


def _folder(stage: str, settings: Any, seed: int, fold: int | None) -> str:
    """A name that is equal for runs which train the same thing."""
    depends = dependencies.of_stage(settings, "heads" if stage == "baseline" else stage)
    depends["before"] = settings.init_from
    digest = files.json_digest(depends)[:12]
    return f"runs/seed{seed}/{'all' if fold is None else f'fold{fold}'}/{stage}-{digest}"


def method_in(job: Job, name: str) -> str:
    """The name under which result.json of the job has the measures of a method."""
    if stage_heads.is_alone(job.config):
        return name
    if job.before is not None or "baseline" not in job.config.stages:
        return job.config.method
    head = methods.name_of("HEADS", recipe_of(name))
    if head in {methods.name_of("HEADS", text) for text in job.config.heads}:
        return head
    return baseline.method_of(job.config.baseline)


def workdir_of(folder: epath.Path, job: Job) -> epath.Path:
    """The work directory of a job."""
    return folder / job.folder
