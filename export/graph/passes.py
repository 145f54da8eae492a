"""Graph passes: they simplify what torch's exporter leaves behind, then fuse products, norms and activations.

Each pass is one class. Passes work on onnx_ir and never read a weight: ``GraphRecipes`` has the recipes of initializers
and is changed together with the graph.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassManager, PassResult, PostconditionError
from onnx_ir.passes.common import (
    ClearMetadataAndDocStringPass,
    CommonSubexpressionEliminationPass,
    IdentityEliminationPass,
    RemoveUnusedNodesPass,
    RemoveUnusedOpsetsPass,
    TopologicalSortPass,
)
from onnxscript.optimizer._constant_folding import FoldConstantsPass

from export.graph.expert_functions import EXPERTS, ExpertInput
from export.graph.ir_helpers import LAST_AXIS_NORM, dims_of, find_nodes, input_of, integers, redirect, substitute
from export.graph.layout_passes import CancelLayouts, ConstantShapes, SinkElementwise, SinkTransposes, SplitSlices
from export.graph.lowering.embedding import in_two_axes, lower_embedding
from export.graph.lowering.linear import (
    DOMAIN,
    PLACEHOLDER,
    Product,
    Storage,
    lower_product,
    make_initializer,
    matrix_initializers,
    matrix_recipe,
    name_of,
)
from export.graph.recipe import MatrixRecipe, PlainRecipe, Recipe, StackOrder
from export.graph.state_functions import CONVOLUTION

CONTRIB = "com.microsoft"
_SMALL = 1024  # elements of what is computed at export: shapes and scalars, never weights


@dataclass
class GraphRecipes:
    """The recipe of every initializer that has one (a quantized matrix under the name of its codes)."""

    storage: Storage
    recipes: dict[str, Recipe] = field(default_factory=dict)

    def plain(self, value: ir.Value) -> PlainRecipe:
        """The recipe of a weight that no pass has replaced yet."""
        recipe = self.recipes[str(value.name)]
        assert isinstance(recipe, PlainRecipe)
        return recipe


def run_passes(model: ir.Model, weights: GraphRecipes) -> None:
    """All passes in order, in place."""
    fold = FoldConstantsPass(shape_inference=False, input_size_limit=_SMALL, output_size_limit=_SMALL)
    tidy = [fold, RemoveUnusedNodesPass(), IdentityEliminationPass()]
    layout = [
        SplitSlices(),
        ConstantShapes(),
        CancelLayouts(),
        SinkTransposes(),
        SinkElementwise(),
        CancelLayouts(),
        *tidy,
    ]
    fuse = [
        TurnTaps(weights),
        PackProducts(weights),
        FuseSilu(),
        FuseSkipNorm(),
        LowerProducts(weights),
        LowerExperts(weights),
        LowerEmbeddings(weights),
    ]
    last = [CommonSubexpressionEliminationPass(), ClearMetadataAndDocStringPass(), RemoveUnusedNodesPass()]
    PassManager([*tidy, *layout, *fuse, *last, RemoveUnusedOpsetsPass(), TopologicalSortPass()])(model)


class PackProducts(InPlacePass):
    """Products of the same input become one, of the matrices stacked by rows, and a Split: q, k and v; gate and up."""

    def __init__(self, weights: GraphRecipes) -> None:
        super().__init__()
        self.weights = weights

    def call(self, model: ir.Model) -> PassResult:
        """Packs the products that all have a bias, and those that all have none."""
        groups: dict[tuple[int, int], list[ir.Node]] = defaultdict(list)
        for node in find_nodes(model, PLACEHOLDER, DOMAIN):
            groups[id(node.inputs[0]), len(node.inputs)].append(node)
        packs = [nodes for nodes in groups.values() if len(nodes) > 1]
        for nodes in packs:
            self._pack(model, nodes)
        return PassResult(model, bool(packs))

    def _pack(self, model: ir.Model, nodes: Sequence[ir.Node]) -> None:
        stacked = [self._stack(model, [input_of(node, i) for node in nodes]) for i in range(1, len(nodes[0].inputs))]
        product = ir.node(PLACEHOLDER, [nodes[0].inputs[0], *stacked], domain=DOMAIN, version=1)
        rows = [dims_of(input_of(node, 1))[0] for node in nodes]
        product.outputs[0].shape = ir.Shape([*dims_of(nodes[0].outputs[0])[:-1], sum(map(int, rows))])
        product.outputs[0].type = nodes[0].outputs[0].type
        inputs = [product.outputs[0], integers(model, [int(count) for count in rows])]
        split = ir.node("Split", inputs, {"axis": -1}, num_outputs=len(nodes))
        model.graph.insert_before(nodes[0], [product, split])
        for node, part in zip(nodes, split.outputs, strict=True):
            part.shape, part.type = node.outputs[0].shape, node.outputs[0].type
            redirect(node.outputs[0], part)
        model.graph.remove(nodes, safe=True)

    def _stack(self, model: ir.Model, values: Sequence[ir.Value]) -> ir.Value:
        recipes = [self.weights.plain(value) for value in values]
        sources = tuple(source for recipe in recipes for source in recipe.sources)
        name = _joint_name([str(value.name) for value in values])
        shape = (sum(recipe.shape[0] for recipe in recipes), *recipes[0].shape[1:])
        self.weights.recipes[name] = replace(recipes[0], name=name, sources=sources, shape=shape)
        value = make_initializer(name, ir.DataType.FLOAT, shape)
        model.graph.initializers[name] = value
        return value


class TurnTaps(InPlacePass):
    """The weight of a convolution over rows is stored as ``[width, channels]``, so that no step transposes it."""

    def __init__(self, weights: GraphRecipes) -> None:
        super().__init__()
        self.weights = weights

    def call(self, model: ir.Model) -> PassResult:
        """Replaces ``Transpose(Squeeze(weight))`` of a weight ``[channels, 1, width]``."""
        modified = False
        for node in find_nodes(model, CONVOLUTION, DOMAIN):
            turned = _made_by(input_of(node, 1), "Transpose")
            squeezed = None if turned is None else _made_by(input_of(turned, 0), "Squeeze")
            weight = None if squeezed is None else input_of(squeezed, 0)
            if weight is None or str(weight.name) not in self.weights.recipes or len(list(weight.uses())) != 1:
                continue
            recipe = self.weights.plain(weight)
            shape = recipe.shape[::-1]
            self.weights.recipes[recipe.name] = replace(recipe, shape=shape, transpose=True)
            weight.shape = ir.Shape((shape[0], shape[-1]))
            node.replace_input_with(1, weight)
            modified = True
        return PassResult(model, modified)


class FuseSilu(InPlacePass):
    """x * Sigmoid(x) becomes one QuickGelu, which is x * Sigmoid(alpha * x), with alpha 1."""

    def call(self, model: ir.Model) -> PassResult:
        """Replaces the Mul; the Sigmoid must have no other user."""
        modified = False
        for sigmoid in find_nodes(model, "Sigmoid"):
            users = [node for node, _ in sigmoid.outputs[0].uses()]
            x = input_of(sigmoid, 0)
            if len(users) == 1 and users[0].op_type == "Mul" and x in users[0].inputs:
                substitute(users[0], ir.node("QuickGelu", [x], {"alpha": 1.0}, domain=CONTRIB, version=1))
                modified = True
        return PassResult(model, modified)


class FuseSkipNorm(InPlacePass):
    """A residual Add and the norm of its sum become one operator that returns both."""

    def call(self, model: ir.Model) -> PassResult:
        """Replaces pairs whose two terms have one shape of three axes."""
        modified = False
        for norm in find_nodes(model, LAST_AXIS_NORM):
            total = input_of(norm, 0)
            add = total.producer()
            if add is None or add.op_type != "Add" or any(dims_of(input_of(add, i)) != dims_of(total) for i in (0, 1)):
                continue
            if len(dims_of(total)) != 3:
                continue
            epsilon = {"epsilon": norm.attributes["epsilon"].as_float()}
            inputs = [*add.inputs, norm.inputs[1]]
            fused = ir.node(
                "SkipSimplifiedLayerNormalization", inputs, epsilon, domain=CONTRIB, num_outputs=4, version=1
            )
            for index in (1, 2):
                fused.outputs[index].name = ""
            model.graph.insert_after(add, fused)
            for old, new in ((norm.outputs[0], fused.outputs[0]), (total, fused.outputs[3])):
                new.shape, new.type = old.shape, old.type
                redirect(old, new)
            model.graph.remove([norm, add], safe=True)
            modified = True
        return PassResult(model, modified)


class LowerProducts(InPlacePass):
    """Every placeholder product becomes the operator that computes it."""

    def __init__(self, weights: GraphRecipes) -> None:
        super().__init__()
        self.weights = weights

    def call(self, model: ir.Model) -> PassResult:
        """Initializers and recipes are replaced with the nodes. A matrix of several products is stored once."""
        nodes, stored = list(find_nodes(model, PLACEHOLDER, DOMAIN)), dict[str, ir.Value]()
        for node in nodes:
            recipe = self.weights.plain(input_of(node, 1))
            bias = node.inputs[2] if len(node.inputs) == 3 else None
            rows, columns = recipe.shape
            product = Product(recipe.name, input_of(node, 0), bias, recipe.sources, rows, columns)
            lowered = lower_product(product, self.weights.storage)
            for value in lowered.initializers:
                if (same := stored.setdefault(str(value.name), value)) is not value:
                    redirect(value, same)
                model.graph.initializers[str(value.name)] = same
            self.weights.recipes.update({name_of(made): made for made in lowered.recipes})
            substitute(node, *lowered.nodes)
        return PassResult(model, bool(nodes))

    def ensures(self, model: ir.Model) -> None:
        """No placeholder is left."""
        if left := list(find_nodes(model, PLACEHOLDER, DOMAIN)):
            raise PostconditionError(f"{len(left)} products were not lowered, the first is {left[0].name}")


class LowerExperts(InPlacePass):
    """The matrices of experts are stored like those of products; the router keeps its floats."""

    def __init__(self, weights: GraphRecipes) -> None:
        super().__init__()
        self.weights = weights

    def call(self, model: ir.Model) -> PassResult:
        """Replaces the matrices, stacked in three axes, by stacks of rows; they differ in nothing else."""
        nodes = list(find_nodes(model, EXPERTS, DOMAIN))
        for node in nodes:
            storage = self.weights.storage
            order = StackOrder(*(bool(node.attributes.pop(name).as_int()) for name in ("turned", "alternating")))
            orders = {ExpertInput.GATE_UP: order, ExpertInput.DOWN: replace(order, alternating=False)}
            count, columns, width = order.shape(self.weights.plain(input_of(node, ExpertInput.DOWN)).shape)
            sizes = {"experts": count, "K": columns, "N": width}
            bits = storage.bits or {"fp16": 16}.get(storage.weights, 32)
            for name, number in {**sizes, "bits": bits, "block_size": storage.block_size}.items():
                node.attributes[name] = ir.AttrInt64(name, number)
            stored = [self._stored(model, input_of(node, slot), order) for slot, order in orders.items()]
            biases = node.inputs[ExpertInput.GATE_UP_BIAS :]
            if biases:
                self._reorder(input_of(node, ExpertInput.GATE_UP_BIAS), StackOrder(alternating=order.alternating))
            inputs = [*node.inputs[: ExpertInput.GATE_UP], *stored[0], *stored[1], *biases]
            while inputs[-1] is None:
                inputs.pop()
            node.resize_inputs(len(inputs))
            for slot, value in enumerate(inputs):
                node.replace_input_with(slot, value)
        return PassResult(model, bool(nodes))

    def _reorder(self, bias: ir.Value, order: StackOrder) -> None:
        recipe = self.weights.plain(bias)
        self.weights.recipes[recipe.name] = replace(recipe, order=order)

    def _stored(self, model: ir.Model, weight: ir.Value, order: StackOrder) -> list[ir.Value | None]:
        """Codes, scales and zero points of a matrix ``[experts, rows, columns]``, or its floats alone."""
        recipe, storage = self.weights.plain(weight), self.weights.storage
        count, rows, columns = order.shape(recipe.shape)
        made: Recipe
        if storage.bits is None:
            half = storage.weights == "fp16"
            shape = (count * rows, columns)
            values = [make_initializer(recipe.name, ir.DataType.FLOAT16 if half else ir.DataType.FLOAT, shape)]
            made = replace(recipe, dtype=storage.weights, order=order)
        else:
            matrix = matrix_recipe(recipe.name, recipe.sources, count * rows, columns, storage)
            made, values = replace(matrix, order=order), matrix_initializers(matrix)
            values[0].shape = ir.Shape(in_two_axes(values[0]))
        for value in values:
            model.graph.initializers[str(value.name)] = value
        self.weights.recipes[name_of(made)] = made
        return [*values, *[None] * (3 - len(values))]


class LowerEmbeddings(InPlacePass):
    """Every gather of rows of a weight reads them as they are stored: quantized, or as the tied head's."""

    def __init__(self, weights: GraphRecipes) -> None:
        super().__init__()
        self.weights = weights

    def call(self, model: ir.Model) -> PassResult:
        """Replaces Gathers of rows of a two-dimensional weight."""
        nodes = [node for node in find_nodes(model, "Gather") if str(input_of(node, 0).name) in self.weights.recipes]
        for node in nodes:
            recipe = self.weights.plain(input_of(node, 0))
            made = [other for other in self.weights.recipes.values() if isinstance(other, MatrixRecipe)]
            tied = next((other for other in made if other.sources == recipe.sources), None)
            lowered = lower_embedding(recipe, tied, model.graph.initializers, input_of(node, 1), self.weights.storage)
            for value in lowered.initializers:
                model.graph.initializers[str(value.name)] = value
            self.weights.recipes.update({name_of(made): made for made in lowered.recipes})
            substitute(node, *lowered.nodes)
        return PassResult(model, bool(nodes))


def _made_by(value: ir.Value, op_type: str) -> ir.Node | None:
    """The node of a standard operator that makes ``value``, if it is of that type."""
    node = value.producer()
    return node if node is not None and (node.op_type, node.domain) == (op_type, "") else None


def _joint_name(names: Sequence[str]) -> str:
    """``a.q_proj.weight``, ``a.k_proj.weight`` become ``a.q_proj_k_proj.weight``."""
    parts = [name.rsplit(".", 2) for name in names]
    return ".".join([*parts[0][:-2], "_".join(part[-2] for part in parts), parts[0][-1]])
