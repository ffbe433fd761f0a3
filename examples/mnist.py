"""Learn handwritten digits and say what that emitted: a tracker that is started and stopped.

usage: pip install '.[cli]' scikit-learn; python examples/mnist.py

The digits are those that scikit-learn ships: 1,797 images of 8 × 8 pixels. For CodeCarbon's example on
MNIST the import is the only line to change; so it is here.
"""

from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

from sidecar import EmissionsTracker

images, labels = load_digits(return_X_y=True)
train_images, test_images, train_labels, test_labels = train_test_split(
    images / 16.0, labels, random_state=0
)
model = MLPClassifier(hidden_layer_sizes=(128,), random_state=0)

tracker = EmissionsTracker(project_name="mnist")
tracker.start()
try:
    for _ in range(10):
        model.partial_fit(train_images, train_labels, classes=range(10))
finally:
    emissions = tracker.stop()

print(f"accuracy {model.score(test_images, test_labels):.2f}")
print(f"{emissions} kg CO2e")
