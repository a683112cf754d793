"""Every promise that the conformance kit looks at, by kind of plugin, with what a break of it usually means.

A promise of a member that a plugin need not have begins with that member's name.
"""

from __future__ import annotations

from collections.abc import Mapping

from robustnas.contracts import ACCESS
from robustnas.threat import NORMS

LEFT_ALONE = {
    "the mode": "train() or eval() inside: put the mode back",
    "the weights": "a parameter was written to: put its values back, or work on a copy",
    "the identity of the weights": "a parameter was replaced by another: copy_() under torch.no_grad() writes into it",
    "the buffers": "a pass in training mode, which moves batch norm's statistics: eval mode, or a copy, would do",
    "the gradients": "backward(), which adds to .grad: torch.autograd.grad would do",
    "requires_grad": "requires_grad_() on a parameter: detach() what needs no gradient, or put it back",
    "the hooks": "a hook that was registered and not removed: handle.remove() would do",
}
"""What a module must not lose, and what lost it."""


def left_alone(aspect: str, what: str, by: str) -> str:
    """The promise to leave an aspect of a module as it was."""
    return f"{by} leaves {aspect} of {what} as they were".lstrip()


def _all_left_alone(what: str, by: str = "") -> dict[str, str]:
    return {left_alone(aspect, what, by): meaning for aspect, meaning in LEFT_ALONE.items()}


MADE = {"is made with default options": "an option without a default: pass an object, or give the option a value"}

ASKED_NORMS = {"is checked for norms that there are": f"norms is a list of {', '.join(NORMS)}, at least one"}

SUITED = {
    "check lets pass what the kit tries it on": "it suits other images or threats: give it options and norms that suit",
    "check returns nothing, and refuses by raising OptionError": "a check that answers True or False: raise instead",
}


def _of_level(name: str, moved: str) -> dict[str, str]:
    """The promises of a loss that stands for that of a level."""
    return {
        f"{name} works for every norm it is checked for": "norms it does not know: name those it does, norms=(...)",
        f"{name} is a scalar tensor": "a loss an image: reduction='mean', or .mean(), would do",
        f"{name} is finite": "a logarithm or a root of zero: add something small inside it",
        f"{name} leaves the images and labels as they were": "an operation in place: images + x instead of images += x",
        f"{name} gives the same value when the generator is in the same state": "draws from elsewhere: "
        "generator=context.generator, device=context.generator.device would do",
        f"{name} is differentiable in {moved}": "a detach() or no_grad() on the way, or the loss does not see them",
        **_all_left_alone("the supernet", name),
    }


METRIC = {
    **MADE,
    "has at least one of score, inner_loss, outer_loss": "a method by another name",
    **ASKED_NORMS,
    "is checked for two radii": "epsilons is a pair of different radii in pixel units",
    **SUITED,
    "score works for every norm it is checked for": "norms it does not know: name those it does, norms=(...)",
    "score is a tensor of shape (N,), a number an image": "a mean over the batch? reduction='none', or a gradient of "
    "the loss with reduction='sum', gives a number an image",
    "score is finite": "a logarithm or a root of zero: add something small inside it",
    "score leaves the images and labels as they were": "an operation in place: images + x instead of images += x",
    "score is repeatable given torch's seed": "draws from Python's or NumPy's generator, or a state that it keeps",
    "score of an image depends on that image alone": "a mean over the batch? reduction='sum' would do",
    "of_batch gives all images of a batch one number, whatever their order": "a number an image, or a sum that leaves "
    "the last image out",
    "score does not grow with epsilon": "the sign: larger is more robust; or a mean over points of the ball, which may "
    "grow for one image: the worst of them does not",
    "score is differentiable in the weights": "a detach(), no_grad() or sign() on the way; a gradient that is part of "
    "the score needs create_graph=True",
    "score is differentiable in alpha": "mixing weights that were detached, or a supernet that was copied",
    "score depends on the network's weights or on alpha": "a score of the images alone",
    **_all_left_alone("the network", "score"),
    "at returns an object with a score": "return self where nothing changes",
    "at scores at the end as the metric does": "at(1.0) is the metric's own score: the ramp ends at its last value",
    **_of_level("inner_loss", "the weights"),
    **_of_level("outer_loss", "alpha"),
}

ATTACK = {
    **MADE,
    **ASKED_NORMS,
    f"access is one of {', '.join(ACCESS)}": "another word for what it sees of the network",
    "evaluations tells what an image costs at most": "it takes the number of classes",
    "evaluations is a positive number": "count forward passes of one image, and backward passes as well",
    "build accepts a norm or raises OptionError": "an exception of another kind for a norm that it does not know",
    f"knows at least one norm of {', '.join(NORMS)}": "threat.norm is compared with another text: linf, l2, l1",
    "knows the norms it is checked for": "its build refuses the norm, or norms=(...) names one too many",
    "is a foolbox attack with a distance, or has build(threat) that gives one": "build returns images, or a function: "
    "robustnas.attack.foolbox_attack.BallAttack brings build",
    "build gives an attack whose distance is the threat's norm": "one attack for every norm: refuse the others with "
    "OptionError",
    "is composed of at least one part": "parts is left out where there are none",
    "every part is a foolbox attack whose distance is the threat's norm": "a part that was built for another norm",
    "an attack without a ball has the access corruption: others count for the worst case": "access = 'corruption'",
    **SUITED,
    "runs under every threat it accepts": "at radius 0, or on a batch of another size; or it asks for gradients, which "
    "only an attack whose access is white-box is shown",
    "leaves the clean images as they were": "an operation in place: images.clone() first",
    "gives images of the shape and dtype it was given": "a batch that shrank, or float64 on the way",
    "gives finite images": "a division by a norm that is zero: clamp(min=1e-12) would do",
    "stays in the box [0, 1]": "no projection: threat.project(images, clean) would do",
    "stays in the ball": "no projection: threat.project(images, clean) would do",
    "moves nothing at epsilon 0": "a step of fixed size without a projection: threat.project(images, clean) would do",
    "runs on some of the images as on all of them": "a number of images that is written down",
    "draws from the draws it takes and treats each image alone": "torch.rand, whose numbers depend on the batch: "
    "draws.of('what for') would do; or a mean over the batch: reduction='sum' would do",
    "an image costs at most `evaluations`": "a start or a last look at the images that is not counted",
    "the harness takes what it gives": "at the largest radius there is",
    "draws at random from seeded global generators only, so that a run can be repeated": "a generator of its own, or "
    "a state that it keeps between runs",
    "breaks an image of a small network in the ball that holds every image": "the sign of the step: the loss of the "
    "true class is to rise",
    **_all_left_alone("the network"),
}

DATASET = {
    **MADE,
    "is checked for at least one split": "splits is a list of names",
    "has shape, classes, mean and std": "an attribute that is missing, or of another kind",
    "shape is (channels, rows, columns), positive integers": "a list, channels last, or the batch among them",
    "classes is an integer of at least 2": "a list of names: their number would do",
    **{
        f"{name} {rest}": meaning
        for name in ("mean", "std")
        for rest, meaning in {
            "has a finite number for each channel": "grey images have one number: (0.5,)",
            "is in pixel units, a fraction of the pixel range: at most 1": "of bytes: divide by 255",
        }.items()
    },
    "contents is a str, or a mapping of 'train' and 'test' to one each": "a number or bytes: a hexadecimal digest "
    "would do",
    "refuses an unknown split with an InputError (DataError, say)": "if name == 'train' ... else: the test split",
    "has the splits it is checked for": "files that are not here: give the option that says where; or splits=(...)",
    "labels are int64 of shape (N,)": "one-hot rows, float or int32: labels.long() would do",
    "labels are on the CPU": "images may live on a device, labels do not: labels.cpu() would do",
    "a split has images": "a folder or a filter that leaves none",
    "labels are 0 to K - 1": "labels from 1, or classes that are not all counted",
    "every class has a training image": "a class that is only in the test split, or classes counted too high",
    "take gives the images it is asked for": "it takes a tensor of indices, (n,) int64",
    "images are float32 of the declared shape": "bytes, float64 or channels last: .float() / 255, permute(0, 3, 1, 2)",
    "images are in [0, 1]": "bytes (divide by 255), or normalised already: normalisation is a layer of the network",
    "a split is the same images in the same order every time": "a shuffle, or draws that are not seeded",
    "take gives the images in the order of the indices": "sorted indices, or a set of them",
    "splits are disjoint: no image is in two of them": "one file for both; duplicates=True if the data has them",
    "training_images are those of split('train') in the same order": "another order of files: sort them alike",
    "training_images have the size that is asked for": "the side is left out: squares of that many pixels",
}


PLAIN = "tuples, tensors or integer keys: lists, int(...) and str keys would do"


def _of_genotypes(what: str) -> dict[str, str]:
    return {
        f"{what} is plain data that JSON keeps as it is": PLAIN,
        f"{what} builds": "what it holds is not what network() reads",
    }


def _of_module(what: str) -> dict[str, str]:
    return {
        f"{what} is an nn.Module": "build returns a function",
        f"{what} is the same when torch's seed is the same": "weights from Python's or NumPy's generator",
        f"{what} maps images (N, C, H, W) to logits (N, K)": "a size of images that is written down, or no linear "
        "layer at the end",
        f"{what} gives finite float32 logits": "float64 parameters, or weights that are too large at the start",
        f"in eval mode {what} treats each image alone": "a mean over the batch, or statistics of the batch",
        f"bounds cover every operation of {what}": "an operation without a rule; docs/bounds.md lists those there "
        "are, and how to register one; methods=() leaves bounds out",
        f"bounds of {what} are finite": "an operation that is unbounded near zero: a division, a logarithm",
        f"bounds of {what} hold at the clean images": "a pass that is not a function of the images alone: dropout in "
        "eval mode",
    }


SEARCH_SPACE = {
    **MADE,
    "is checked for at least one shape": "shapes is a list of (C, H, W)",
    "the supernet builds for images of every shape": "3 channels, or a number of rows, that is written down",
    **_of_module("the supernet"),
    "the supernet's parameters are float32": "torch.tensor of Python numbers is float32, of NumPy's float64",
    "alpha is a mapping of names to (E, O) parameters": "a tensor: {'edges': self.edges} would do",
    "alpha is made of parameters of the supernet, so that its state_dict holds them": "a plain tensor: nn.Parameter "
    "as an attribute of the module would do",
    "alpha reaches the logits": "an edge whose weights are not used in forward",
    "mixing() gives the weights of the candidates": "mixing is a method without arguments",
    "mixing() has the names and shapes of alpha": "two tables that are joined or cut",
    "candidates names the operations of tables of alpha, one a column": "an operation was added to one of the two",
    "rows of mixing() are not negative and sum to 1": "softmax over another dimension: dim=1",
    "the argument mixing stands in for softmax(alpha)": "forward reads alpha; it mixes with what it is given, if it is",
    "one-hot mixing gives a genotype": "it reads the module: alpha and mixing() alone, the supernet may be wrapped",
    "a genotype is plain data that JSON keeps as it is": PLAIN,
    "a genotype is a function of mixing()": "random draws where two candidates weigh the same",
    "a genotype is what mixing() stands for": "it reads something else than mixing()",
    "softmax(alpha) gives a genotype": "weights that are not one-hot: argmax(dim=1) would do",
    "the network builds from a genotype": "what the genotype holds is not what network() reads",
    **_of_module("the network"),
    "drop_path drops paths in training mode": "the attribute is there, and forward does not read it",
    "drop_path acts in training mode only": "if self.training and self.drop_path > 0",
    "network refuses a genotype that is not of this space with an InputError": "genotype['ops'] raises KeyError: "
    "genotype.get('ops'), and raise robustnas.errors.InputError",
    "network(auxiliary=True) has with_auxiliary(images), or raises InputError": "raise InputError if there is no head",
    "has an auxiliary head": "the kit was told auxiliary=True",
    "refuses an auxiliary head with an InputError": "the kit was told auxiliary=False",
    "with_auxiliary gives two (N, K) logits": "features instead of logits, or one tensor in eval mode",
    "the first logits of with_auxiliary are the network's own": "the head's logits come second",
    "the auxiliary head's logits are its own": "one head for both",
    "published is a mapping of names to genotypes": "a list: {'name': genotype} would do",
    **_of_genotypes("published holds a genotype that"),
    "references is a mapping of names to References": "a text: robustnas.genotype.reference has the class",
    "references are of published genotypes": "a name that published has not",
    "sample draws a genotype": "it takes a torch.Generator",
    "sample leaves the global generators of torch, NumPy and Python alone": "torch.randint without generator=generator",
    **_of_genotypes("sample draws a genotype that"),
    "sample draws what the generator alone decides": "draws from elsewhere, or a state that it keeps",
    "sample draws with the generator": "the generator is not used",
    "decisions holds the number of options of each decision": "a tuple of whole numbers from 1, at least one",
    "decide makes a genotype of one option a decision": "decisions has another number of options than decide takes",
    **_of_genotypes("decide makes a genotype that"),
    "decide depends on the options alone": "a random draw, or a state that it keeps",
    "decide makes another genotype of another option": "two options of one meaning: leave one of them out",
    "genotypes lists the genotypes of the space": "an iterator that is used up: make a new one at each call",
    "genotypes lists so many that one can go through them": "leave it out for a large space",
    "genotypes lists each genotype once": "two orders of one choice",
    "genotypes lists them in one order": "a set: sort it",
    **_of_genotypes("genotypes lists a genotype that"),
    "genotypes lists what sample draws": "the two are made in different ways",
    "size is the channels and the cells of the discrete networks": "a property that gives a pair",
    "sized is the space with networks of that size": "attrs.evolve(self, ...) would do",
    "sized gives the size that is asked for": "another option holds the size that size reads",
    "size is such that weights rise with channels": "channels that the networks do not have",
    "size is that of the space's own networks": "size reads the options of the supernet",
    "sized refuses 0 channels with a ValueError": "options with at_least=1 refuse it on their own",
    "path gives one-hot rows by the names and shapes of alpha": "an index instead of a row: one_hot(index, O).float()",
    "path depends on its genotype alone": "random draws for what the genotype leaves open",
    "path stands for its genotype": "edges that it leaves out have `none`; the order of the operations",
    "path serves the supernet as columns as it does as weights": "forward reads another member of the mixing weights",
}

ORDER = {
    **MADE,
    "gradient works for a step of a search": "members of the step: robustnas.search.hypergradient.Step",
    "gradient returns a Hypergradient": "a list: Hypergradient(gradients, found.validation) would do",
    "gradient has one tensor a table of alpha, of its shape": "step.alpha, not all parameters",
    "gradients have no graph": "create_graph=True in the last derivative: detach() would do",
    "gradients are finite": "a division by a norm that is zero",
    "what the validation pass saw is told: a finite loss": "the validation of step.outer_gradient is handed on",
    "the generator of the inner loss is put back: the inner step draws what its rehearsal drew": "a rehearsal outside "
    "`with virtual_step(...)` or its like, which puts it back",
    "the optimiser of w is left as it was": "optimizer.step() moves momentum: compute the virtual step by hand",
    "gradient is repeatable given its draws": "a state that it keeps between steps",
    "where alpha has no say in the inner level and w does not move, gradient is that of the outer objective": "the "
    "sign, a factor, or a mean where a sum stands",
    **_all_left_alone("the supernet"),
}

REGIME = {
    **MADE,
    **ASKED_NORMS,
    "check lets pass what the kit tries it on": "more epochs than the kit's eight: give it options that suit",
    "loss works for every norm it is checked for": "norms it does not know: name those it does, norms=(...)",
    "loss returns a TrainingLoss": "a tensor: TrainingLoss(loss, logits) would do",
    "the loss is a finite scalar with its graph": "a loss an image (mean() would do), or a detach() on the way",
    "the logits are (N, K)": "probabilities or losses in their place",
    "figures have a number an image": "a mean: the framework averages, over batches and processes",
    "loss is differentiable in the weights": "a detach() or no_grad() on the way, or a loss of the images alone",
    "loss leaves the images and labels as they were": "an operation in place: images + x instead of images += x",
    "running statistics move as in an ordinary pass": "a pass on images that are not finite, or with a graph",
    "loss is repeatable given its draws": "draws from elsewhere than context.generator",
    **_all_left_alone("the network"),
    "schedule gives finite numbers by name": "tensors: float(...) would do",
    "perturbed gives images of the ball": "no projection: threat.project(images, clean) would do",
    "right tells which images count, (N,) bool": "accuracy: logits.argmax(1) == labels would do",
    "judged lets the network after the last epoch be kept": "a ramp that ends after the training",
}

STRATEGY = {
    **MADE,
    "check returns nothing, and refuses by raising InputError": "a check that answers True or False: raise instead",
    "search returns a genotype": "a mapping with the key genotype",
    **_of_genotypes("search returns a genotype that"),
    "search returns plain data": "tensors: .item() or .tolist() would do",
    "search asks for training images alone": "the test split is for evaluation: dataset.split('train')",
    "search is a function of its context: the seed, and what estimate answers": "a draw from elsewhere than "
    "context.generator, or a state that it keeps",
    "search goes on where a candidate could not be judged": "figures may be NaN: a comparison with NaN is false",
    "estimate is asked about genotypes of the space": "what space.decide or space.sample makes would do",
    "estimate is asked how, by an Estimation with objectives": "estimate(genotype, Estimation(('robust',)))",
    "candidates is how many genotypes are judged, at most": "a loop that judges more",
    "estimation is an Estimation": "a property that returns one",
}

TRACKER = {
    **MADE,
    "check returns nothing, and refuses by raising InputError": "a check that answers True or False: raise instead",
    "start takes a run that begins": "a file or a folder that is not there yet: of all, run.folder alone is",
    "takes stages that are under way together, and figures that are not finite": "one stage is remembered: keep what "
    "belongs to each, by its stage.place",
    "takes a result, and that a stage failed": "the result of a stage that failed is None",
    "end takes a run without a table, with a stage that was stopped": "there are no rows then, and a stage has no end",
    "start takes a run that goes on, in the folder that it has written to": "mkdir() without exist_ok=True, or a file "
    "opened with mode x",
    "takes the rest of a stage that was stopped, and the table": "something of the run before that was not cleared in "
    "end, or a figure of a row that is None",
    "writes into its own folder of the run directory, and leaves the rest as it was": "run.folder, not run.directory, "
    "is its place",
    "leaves what it is told as it was": "pop() or an assignment: copy.deepcopy() first",
}

EXECUTOR = {
    **MADE,
    "check returns nothing, and refuses by raising InputError": "a check that answers True or False: raise instead",
    "run takes jobs that wait for each other, and one that fails": "an exception of a job's call: it is the job's end",
    "every job is done that can be, before run returns": "run that hands jobs out and does not wait for them",
    "a job begins when those that it waits for have ended": "needs and after: both are waited for",
    "a job does not begin where one that it needs has failed": "the end of a job is told or seen, and not why it ended",
    "the end of each job is told once, and why it failed": "work.ended(name, str(fault)) where a call raised",
    "run returns soon where the run was asked to stop": "work.asked() is looked at between two waits",
}

MEANINGS: Mapping[str, Mapping[str, str]] = {
    "search-space": SEARCH_SPACE,
    "metric": METRIC,
    "attack": ATTACK,
    "dataset": DATASET,
    "strategy": STRATEGY,
    "order": ORDER,
    "regime": REGIME,
    "tracker": TRACKER,
    "executor": EXECUTOR,
}
"""By kind of plugin: each promise, and what a break of it usually means."""

OPTIONAL = (
    "score", "inner_loss", "outer_loss", "at", "check", "evaluations", "contents", "training_images", "candidates",
    "published", "sample", "genotypes", "size", "sized", "path",
    "decisions", "decide", "estimation", "of_batch",
)  # fmt: skip
"""Members that a plugin need not have."""
