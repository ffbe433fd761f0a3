"""Learn handwritten digits in a decorated function, with its phases in the records.

usage: pip install '.[cli]' scikit-learn; python examples/mnist_decorator.py
"""

from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

from sidecar import phase, track_emissions


@track_emissions(project_name="mnist")
def train_model() -> float:
    """Train, and return the accuracy."""
    with phase("load"):
        images, labels = load_digits(return_X_y=True)
        train_images, test_images, train_labels, test_labels = train_test_split(
            images / 16.0, labels, random_state=0
        )
    model = MLPClassifier(hidden_layer_sizes=(128,), random_state=0)
    with phase("train"):
        for _ in range(10):
            model.partial_fit(train_images, train_labels, classes=range(10))
    with phase("evaluate"):
        return model.score(test_images, test_labels)


if __name__ == "__main__":
    print(f"accuracy {train_model():.2f}")
