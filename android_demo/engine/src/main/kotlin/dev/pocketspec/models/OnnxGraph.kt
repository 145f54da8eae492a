package dev.pocketspec.models

import dev.pocketspec.bundle.FileNames
import dev.pocketspec.bundle.Manifest
import dev.pocketspec.bundle.PocketspecException
import java.io.ByteArrayOutputStream
import java.io.File

/**
 * The bytes of a graph file, as a session of ONNX Runtime's Java API needs them.
 *
 * That API knows required inputs alone. Our graphs have two optional ones, [OPTIONAL], each with a default among the
 * graph's initializers; without its default an input is required. Weights stay in their files, beside the graph.
 */
object OnnxGraph {
    /** Optional inputs of exported graphs, which become required. */
    val OPTIONAL = setOf("tree_bias", "logits_from")

    private const val MOST_BYTES = 64L shl 20

    // Field numbers of onnx.proto.
    private const val MODEL_GRAPH = 7
    private const val GRAPH_INITIALIZER = 5
    private const val TENSOR_NAME = 8
    private const val TENSOR_EXTERNAL = 13
    private const val ENTRY_KEY = 1
    private const val ENTRY_VALUE = 2

    /** The graph in [file] with required inputs; PocketspecException if it is no graph, or names files elsewhere. */
    fun read(file: File): ByteArray {
        if (!file.isFile) throw PocketspecException("${file.name} is missing; ${Manifest.EXPORT_AGAIN}.")
        if (file.length() > MOST_BYTES) throw PocketspecException("${file.name} has its weights inside; ${Manifest.EXPORT_AGAIN}.")
        return withRequiredInputs(file.readBytes(), file.name)
    }

    internal fun withRequiredInputs(model: ByteArray, name: String): ByteArray {
        val result = ByteArrayOutputStream(model.size)
        for (field in ProtoFields(model, 0, model.size, name)) {
            if (field.number != MODEL_GRAPH) {
                result.write(model, field.start, field.end - field.start)
                continue
            }
            val graph = withoutDefaults(model, field, name)
            ProtoFields.writeHead(result, MODEL_GRAPH, graph.size())
            graph.writeTo(result)
        }
        return result.toByteArray()
    }

    private fun withoutDefaults(model: ByteArray, graph: ProtoField, name: String): ByteArrayOutputStream {
        val result = ByteArrayOutputStream(graph.end - graph.first)
        for (field in ProtoFields(model, graph.first, graph.end, name)) {
            val isDefault = field.number == GRAPH_INITIALIZER && tensorName(model, field, name) in OPTIONAL
            if (!isDefault) result.write(model, field.start, field.end - field.start)
        }
        return result
    }

    /** The name of an initializer, whose weights must lie in a file beside the graph. */
    private fun tensorName(model: ByteArray, tensor: ProtoField, name: String): String? {
        var found: String? = null
        for (field in ProtoFields(model, tensor.first, tensor.end, name)) {
            if (field.number == TENSOR_NAME) found = field.text(model)
            if (field.number == TENSOR_EXTERNAL) checkLocation(model, field, name)
        }
        return found
    }

    private fun checkLocation(model: ByteArray, entry: ProtoField, name: String) {
        val texts = HashMap<Int, String>()
        for (field in ProtoFields(model, entry.first, entry.end, name)) texts[field.number] = field.text(model)
        val location = if (texts[ENTRY_KEY] == "location") texts[ENTRY_VALUE] ?: "" else return
        if ('/' !in location && FileNames.fault(location) == null) return
        throw PocketspecException("$name reads weights from another folder than its own; it is not opened.")
    }
}
